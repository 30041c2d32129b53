"""The command line."""

from leakage_audit.cli.command_line import main

__all__ = ["main"]
