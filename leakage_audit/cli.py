"""The command line: `leakage-audit fit | inspect | compare | report`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

import lightning as L
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

USAGE = """usage: leakage-audit COMMAND [options]

  fit      train a network and audit what its gradients leak   (leakage-audit fit --config configs/quickstart.yaml)
  inspect  c(M) and the layer table before any training        (leakage-audit inspect --variant cnn3_v1)
  compare  attacks × networks × images, as a table and figure  (leakage-audit compare --help)
  report   one page about a finished or broken-off fit         (leakage-audit report RUN)

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
        if self.trainer.is_global_zero and self.trainer.log_dir and not self.trainer.fast_dev_run:
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
    elif command in _COMMANDS:
        return _COMMANDS[command](options)
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
    return 0


def _run(function: Callable[..., None], options: list[str], name: str) -> int:
    """Call a function with its parameters read from the command line; mistakes become one line and exit code 2."""
    parser = ArgumentParser(prog=f"leakage-audit {name}", description=(function.__doc__ or "").split("\n")[0])
    parser.add_function_arguments(function, fail_untyped=False)
    settings = parser.parse_args(options)
    try:
        function(**parser.instantiate_classes(settings).as_dict())
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as mistake:
        print(f"leakage-audit {name}: {mistake}", file=sys.stderr)
        return 2
    return 0


def _inspect(options: list[str]) -> int:
    return _run(importlib.import_module("leakage_audit.inspection").inspect_command, options, "inspect")


_COMMANDS = {"inspect": _inspect}
