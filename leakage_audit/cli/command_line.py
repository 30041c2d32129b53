"""The command line: `leakage-audit fit | inspect | compare | prior | report | losses`."""

import importlib
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import get_args, get_type_hints

import docstring_parser
import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

USAGE = """usage: leakage-audit COMMAND [options]

  fit      train a network and audit what its gradients leak   (leakage-audit fit --config configs/quickstart.yaml)
  inspect  c(M) and the layer table before any training        (leakage-audit inspect --variant cnn3_v1)
  compare  attacks × networks × images, as a table and figure  (leakage-audit compare --help)
  prior    what images look like, learned from public ones     (leakage-audit prior --help)
  report   one page about a finished or broken-off fit         (leakage-audit report RUN)
  losses   training and test loss by epoch, as a plot          (leakage-audit losses RUN FIGURE)

validate, test and predict work as in LightningCLI. COMMAND --help lists a command's options."""


class AuditCLI(LightningCLI):
    """LightningCLI with this package's model and data as defaults, and a last word on where the results are."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the data say how many classes there are and how large the images."""
        parser.set_defaults({"model": "leakage_audit.models.Variant", "data": "leakage_audit.data.Synthetic"})
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")

    def after_fit(self) -> None:
        """Tell where the results are and how to look at them."""
        if self.trainer.is_global_zero and self.trainer.log_dir and not getattr(self.trainer, "fast_dev_run", False):
            print(f"\nResults: {self.trainer.log_dir}\nLook at them with: tensorboard --logdir {self.trainer.log_dir}")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command and its options; those of the process by default.

    Returns:
        The exit code: 0, 2 for a mistake in the options or input, 3 for a fit that a `LeakageGate` failed.
    """
    command, *options = list(sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(f"leakage-audit {version('leakage-audit')}")
    elif command in ("fit", "validate", "test", "predict"):
        return _lightning(None if args is None else [command, *options])
    elif command in ("inspect", "compare", "prior", "report", "losses"):
        return _run(command, options)
    else:
        print(f"leakage-audit: unknown command {command!r}\n{USAGE}", file=sys.stderr)
        return 2
    return 0


def _lightning(args: list[str] | None) -> int:
    # The engine never needs the callbacks; here their import makes their short names known (--trainer.callbacks+=…).
    callbacks = importlib.import_module("leakage_audit.callbacks")
    try:
        AuditCLI(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            args=args,
        )
    except callbacks.LeakageLimitExceeded as failure:
        print(f"leakage-audit: {failure}", file=sys.stderr)
        return 3
    except FileNotFoundError as missing:  # images or a checkpoint: the message says what to do, a traceback nothing
        print(f"leakage-audit: {missing}", file=sys.stderr)
        return 2
    return 0


def _run(command: str, options: list[str]) -> int:
    """Call the command's function with its options; mistakes become one line and exit code 2."""
    function = getattr(
        importlib.import_module("leakage_audit.cli.commands"), command
    )  # costs a second: only when needed
    try:
        given = vars(_parser(command, function).parse_args(_with_config(options)))
        positional = [given.pop(name) for name in _positional(function)]
        function(*positional, **given)
    except (ValueError, OSError) as mistake:
        print(f"leakage-audit {command}: {mistake}", file=sys.stderr)
        return 2
    return 0


def _positional(function: Callable[..., None]) -> list[str]:
    parameters = signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]


def _with_config(options: list[str]) -> list[str]:
    """Put what the YAML file of `--config FILE` says before the other options, so that these win.

    Raises:
        ValueError: If the file does not hold options.
    """
    reader = ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    found, rest = reader.parse_known_args(options)
    if found.config is None:
        return rest
    try:
        said = yaml.safe_load(Path(found.config).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{found.config} is no YAML file: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{found.config} must hold options as `name: value`, got {said!r}")
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in said.items()}
    return [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()] + rest


def _parser(command: str, function: Callable[..., None]) -> ArgumentParser:
    """A function's parameters as options, its docstring as their help."""
    documented = docstring_parser.parse(function.__doc__ or "")
    help_of = {parameter.arg_name: parameter.description for parameter in documented.params}
    parser = ArgumentParser(prog=f"leakage-audit {command}", description=documented.short_description)
    parser.epilog = "--config FILE reads options from a YAML file; those on the command line win."
    hints = get_type_hints(function)
    for name, parameter in signature(function).parameters.items():
        kind = next(iter(get_args(hints[name])), hints[name])  # `str | None` is read as str
        required, flag = parameter.default is parameter.empty, "--" + name.replace("_", "-")
        if kind is bool:
            parser.add_argument(flag, dest=name, action="store_true", help=help_of[name])
        elif name in _positional(function):
            parser.add_argument(name, type=kind, help=help_of[name])
        else:
            shown = "" if required or parameter.default is None else f" Default: {parameter.default}."
            default = None if required else parameter.default
            words = f"{help_of[name]}{shown}"
            parser.add_argument(flag, dest=name, type=kind, default=default, required=required, help=words)
    return parser
