"""`leakage-audit filter` on filters that do nothing, something, and nonsense."""

import json

import pytest

from leakage_audit.cli.command_line import main

FILTERS = """
import torch

def nothing(gradients):
    return gradients

def listed(gradients):
    if not isinstance(gradients, list):
        raise TypeError("a list, please")
    return [2 * g for g in gradients]

def noisy(gradients):
    return {k: g + g.square().mean().sqrt() * torch.randn_like(g) for k, g in gradients.items()}

def folded(gradients):
    return {k: g.abs() for k, g in gradients.items()}

class Pruning:
    def __call__(self, gradients):
        return {k: torch.where(g.abs() > g.abs().median(), g, 0) for k, g in gradients.items()}

def flat(gradients):
    return {k: g.flatten() for k, g in gradients.items()}

def nan(gradients):
    return {k: g / 0 * 0 for k, g in gradients.items()}

def fails(gradients):
    raise RuntimeError("no")

def none(gradients):
    return None
"""


@pytest.fixture
def filters(tmp_path, monkeypatch):
    (tmp_path / "some_filters.py").write_text(FILTERS)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(capsys, name, *options):
    given = ["filter", f"some_filters.{name}", "--data=synthetic", "--network=cnn2_v1", "--image-size=8", "--indices=1"]
    assert main([*given, "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["nothing", "listed"])
def test_a_filter_that_hides_nothing(filters, capsys, name):
    found = run(capsys, name)
    (image,) = found["images"]
    assert found["status"] == "leaks"
    assert not found["random"]
    assert image["attack"] == pytest.approx(image["attack_before"], abs=3)
    assert image["limit"] > 80


def test_noise_is_priced(filters, capsys):
    found = run(capsys, "noisy")
    (image,) = found["images"]
    assert found["random"]
    assert found["relative_error"] == pytest.approx(1, abs=0.3)
    assert image["limit"] < image["limit_before"] - 40
    assert image["attack"] < image["limit"] + 3


def test_pruning_by_an_object(filters, capsys):
    found = run(capsys, "Pruning")
    assert found["zeroed"] == pytest.approx(0.5, abs=0.02)
    assert not found["images"][0]["solved"]  # what is the same every time may be known better than by its size


def test_what_may_be_invertible_is_never_called_protected(filters, capsys):
    assert run(capsys, "folded")["status"] in ("unknown", "open", "leaks")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", "some_filters.flat changes the shape of conv1.weight"),
        ("nan", "some_filters.nan returns NaN or infinite values for conv1.weight"),
        ("fails", "takes neither gradients by name (RuntimeError: no)"),
        ("none", "must return gradients by name, got NoneType"),
        ("absent", "cannot be imported"),
    ],
)
def test_nonsense_is_named(filters, capsys, name, message):
    assert main(["filter", f"some_filters.{name}", "--data=synthetic", "--network=cnn2_v1", "--image-size=8"]) == 2
    assert message in capsys.readouterr().err


def test_a_table_for_people(filters, capsys):
    given = ["filter", "some_filters.nothing", "--data=synthetic", "--network=cnn2_v1", "--image-size=8", "--indices=1"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "limit" in out
    assert "leaks" in out
