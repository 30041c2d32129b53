"""Every example in a docstring runs, and every public function and class has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import leakage_audit
import leakage_audit.callbacks

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
PACKAGES = (leakage_audit, leakage_audit.callbacks)
MODULES = sorted(
    {found.name for package in PACKAGES for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")}
)
PUBLIC = (
    "leakage_audit",
    "leakage_audit.attacks",
    "leakage_audit.callbacks",
    "leakage_audit.data",
    "leakage_audit.defences",
    "leakage_audit.scores",
)
# What another's example shows, and what is only raised or handed out.
SHOWN_ELSEWHERE = {"ATTACKS", "Attack", "Found", "Reconstruction", "Audit", "LeakageLimitExceeded", "UnreadableNetwork"}
SHOWN_ELSEWHERE |= {
    "CIFAR10_CLASSES",
    "PEAK_255",
    "PSNR_CAP",
    "DefenceError",
    "Observation",
    "Scores",
    "Security",
    "attacks",
}


def examples(name):
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", [name for name in MODULES if examples(name)])
def test_the_examples_run(name):
    for test in examples(name):
        said: list[str] = []
        failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed
        assert not failed, "".join(said)


@pytest.mark.parametrize("package", PUBLIC)
def test_what_is_public_has_an_example(package):
    module = importlib.import_module(package)
    for name in set(module.__all__) - SHOWN_ELSEWHERE:
        told = inspect.getdoc(getattr(module, name)) or ""
        assert "Example" in told or ">>>" in told, f"{package}.{name}"
