"""The command line: `leakage-audit fit | inspect | compare | sweep | filter | prior | report | losses`."""

import importlib
import shlex
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib.metadata import version
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from leakage_audit.cli.mistakes import plainest

USAGE = """usage: leakage-audit COMMAND [options]

  fit      train a network and audit what its gradients leak   (leakage-audit fit --config configs/quickstart.yaml)
  inspect  c(M) and the layer table before any training        (leakage-audit inspect --variant cnn3_v1)
  compare  attacks × networks × images, as a table and figure  (leakage-audit compare --help)
  sweep    defences × strengths: what they cost and leave      (leakage-audit sweep --config configs/sweep.yaml)
  filter   what a filter of gradients lets through, in dB      (leakage-audit filter my.module.filter --data DIR)
  prior    what images look like, learned from public ones     (leakage-audit prior --help)
  report   one page about a finished or broken-off fit         (leakage-audit report RUN)
  losses   training and test loss by epoch, as a plot          (leakage-audit losses RUN FIGURE)

validate, test and predict work as in LightningCLI. COMMAND --help lists a command's options."""


COMMANDS = dict.fromkeys(("inspect", "compare", "prior", "report", "losses"), "leakage_audit.cli.commands")
COMMANDS |= dict.fromkeys(("sweep", "filter"), "leakage_audit.cli.defences")


class AuditCLI(LightningCLI):
    """LightningCLI with this package's model and data as defaults, and a last word on where the results are."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the data say how many classes there are and how large the images."""
        parser.set_defaults({"model": "leakage_audit.models.Variant", "data": "leakage_audit.data.Synthetic"})
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Look at the checkpoint before it is read: what unpickling a foreign file raises says nothing.

        Raises:
            ArgumentError: If it is a file that no Trainer has saved.
        """
        super().parse_arguments(parser, args)
        given = self.config[self.config["subcommand"]].get("ckpt_path")
        if isinstance(given, str) and Path(given).is_file() and not is_zipfile(given):
            raise ArgumentError(None, f"{given} is no checkpoint of Lightning's")

    def instantiate_classes(self) -> None:
        """Make data, model and trainer; a value that one of them refuses is a mistake in the options.

        Raises:
            ArgumentError: With the sentence of the class that refused.
        """
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as mistake:
            raise ArgumentError(None, plainest(mistake)) from mistake

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the trainer; its progress bar stays on one line, unless the callbacks have another or it has none.

        Args:
            **kwargs: Take the place of the trainer's options.
        """
        options = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        given = options.get("callbacks") or []
        callbacks = list(given) if isinstance(given, Sequence) else [given]
        silent = options.get("enable_progress_bar") is False or options.get("barebones")
        if not silent and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(importlib.import_module("leakage_audit.callbacks").OneLineProgressBar())
        return super().instantiate_trainer(**kwargs | {"callbacks": callbacks})

    def after_fit(self) -> None:
        """Tell where the results are and how to look at them."""
        if self.trainer.is_global_zero and self.trainer.log_dir and not getattr(self.trainer, "fast_dev_run", False):
            # By its path where the shell would not find it, so that the line works as printed.
            own = Path(sys.executable).parent / "tensorboard"
            program = "tensorboard" if shutil.which("tensorboard") or not own.exists() else str(own)
            folder = self.trainer.log_dir
            # TensorBoard's fast loader leaves out what each tag means; of the pictures it shows about ten unless told.
            options = "--samples_per_plugin images=200 --load_fast=false"
            print(f"\nResults: {folder}\nLook at them with: {program} --logdir {shlex.quote(folder)} {options}")


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command and its options; those of the process by default.

    Returns:
        The exit code: 0, 2 for a mistake in the options or input, 3 for a fit that a `LeakageGate` failed.
    """
    if args is None:  # networks, filters and modules that lie where the command is run are found, as by python -m
        sys.path.append(str(Path.cwd()))
    command, *options = list(sys.argv[1:] if args is None else args) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(f"leakage-audit {version('leakage-audit')}")
    elif command in ("fit", "validate", "test", "predict"):
        return _lightning(None if args is None else [command, *options])
    elif command in COMMANDS:
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
            parser_kwargs={"exit_on_error": False},
            args=args,
        )
    except callbacks.LeakageLimitExceeded as failure:
        print(f"leakage-audit: {failure}", file=sys.stderr)
        return 3
    except (
        ArgumentError,
        FileNotFoundError,
        UnicodeDecodeError,
        MisconfigurationException,
    ) as mistake:  # the message says what to do, a traceback nothing
        return _refuse("leakage-audit", mistake, sys.argv[1:] if args is None else args)
    return 0


def _run(command: str, options: list[str]) -> int:
    """Call the command's function with its options; mistakes become one line and exit code 2."""
    function = getattr(importlib.import_module(COMMANDS[command]), command)  # costs a second: only when needed
    try:
        given = _parser(command, function).parse_args(_as_named(options, function)).as_dict()
        given.pop("config")
        positional = [given.pop(name) for name in _positional(function)]
        function(*positional, **given)
    except (ArgumentError, ValueError, OSError, ImportError, MisconfigurationException) as mistake:
        return _refuse(f"leakage-audit {command}", mistake, options)
    return 0


def _parser(command: str, function: Callable[..., None]) -> ArgumentParser:
    """A function's parameters as options, those that are positional only as places, its docstring as their help."""
    parser = ArgumentParser(prog=f"leakage-audit {command}", exit_on_error=False)
    parser.add_function_arguments(function, as_positional=bool(_positional(function)))
    parser.add_argument("--config", action="config", help="YAML file with options; those given after it win")
    return parser


def _positional(function: Callable[..., None]) -> list[str]:
    parameters = signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]


def _as_named(options: list[str], function: Callable[..., None]) -> list[str]:
    """Options as the parser knows them: dashes within a name become underscores, a switch without a value says true."""
    switches = {name for name, parameter in signature(function).parameters.items() if parameter.annotation is bool}
    named = []
    for option, after in pairwise([*options, ""]):
        name, equals, value = option.partition("=")
        if option.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            alone = not equals and name[2:] in switches and after.lower() not in ("true", "false", "yes", "no")
            option = f"{name}=true" if alone else name + equals + value
        named.append(option)
    return named


def _refuse(program: str, mistake: Exception, options: Sequence[str]) -> int:
    """Say in one line what was wrong, and in which configuration it may stand; the exit code of a mistake."""
    named = [after for option, after in pairwise([*options, ""]) if option == "--config"]
    named += [option.partition("=")[2] for option in options if option.startswith("--config=")]
    where = f" (with --config {', '.join(named)})" if named and isinstance(mistake, ArgumentError) else ""
    print(f"{program}: {' '.join(plainest(mistake).split())}{where}", file=sys.stderr)
    return 2
