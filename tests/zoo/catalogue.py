"""All the specimens."""

import importlib
from importlib.util import find_spec

THEMES = (
    "classifiers",
    "outputs",
    "calls",
    "targets",
    "losses",
    "loss_attributes",
    "state",
    "beside",
    "randomness",
    "copying",
    "normalisation",
    "optimisation",
    "architectures",
    "reparametrised",
    "layers",
    "refused",
    "self_supervised",
    "recipes",
)
# The same library under its other name; an extra of the tests.
OPTIONAL = {"other_name": "pytorch_lightning"}

NAMES = [*THEMES, *(theme for theme, package in OPTIONAL.items() if find_spec(package))]
CASES = [case for name in NAMES for case in importlib.import_module(f"zoo.{name}").CASES]
CURES = [case for case in CASES if case.cure is not None]
