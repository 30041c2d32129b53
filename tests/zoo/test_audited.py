"""What must happen to each specimen happens: audited with the training's own gradient, or refused with a reason.

And its training is bit for bit the same with and without the audit.
"""

import re

import pytest
import torch

from zoo.catalogue import CASES, CURES
from zoo.fingerprint import differences
from zoo.fitting import fit


@pytest.fixture(scope="module", params=CASES, ids=str)
def audited(request, tmp_path_factory):
    """A case, and its one fit with an audit."""
    return request.param, fit(request.param, tmp_path_factory.mktemp("with"))


def test_training_is_the_same_with_and_without(audited, tmp_path):
    case, found = audited
    assert found.records
    assert differences(found.fingerprint, fit(case, tmp_path, audited=False).fingerprint) == []


def test_is_audited_or_refused_with_the_cause_and_the_setting_that_cures_it(audited):
    case, found = audited
    if case.refused is None:
        check(case, found)
        return
    assert found.records
    for record in found.records:
        assert re.search(case.refused, record["skipped"], re.IGNORECASE)
    assert any(record["skipped"] in warning for record in found.records for warning in found.warnings)


@pytest.mark.parametrize("case", CURES, ids=str)
def test_is_audited_once_the_setting_is_given(case, tmp_path):
    check(case, fit(case, tmp_path, **case.cure))


def check(case, found):
    """Every step audited, verified, and with gradients that are the optimiser's."""
    assert [record.get("skipped") for record in found.records] == [None] * len(found.gradients)
    for record in found.records:
        verified = record["verified"]
        assert verified["scale"] == pytest.approx(case.scale, rel=10 * verified["tolerance"])
        assert case.scale != 1 or verified["error"] <= verified["tolerance"]
        assert not set(record["problems"]) & ({"keeps", "rgap", "c"} if case.chain else {"keeps"})
        if case.chain:  # every layer of these determines its input: R-GAP must find the very images
            assert min(psnr for one in record["samples"] for psnr in one["attacks"]["rgap"]["psnr"]) > 60
    assert len(found.seen) == len(found.gradients)
    if case.alone:
        for seen, gradients in zip(found.seen, found.gradients, strict=True):
            _agrees(case, seen, gradients, found.records[0]["verified"]["tolerance"])
    if case.warns is not None:
        assert any(re.search(case.warns, warning) for warning in found.warnings)
    if case.normalised is not None:
        for seen in found.seen[0]:
            torch.testing.assert_close((seen.mean, seen.std), case.normalised, rtol=1e-5, atol=1e-6)


def _agrees(case, seen, gradients, tolerance):
    """The mean of the single images' gradients, as the attack saw them, against what the optimiser used."""
    parts = [[g.to_dense() for g in one.gradients.values()] for one in seen]
    for own, *others in zip(gradients, *parts, strict=True):
        mean = case.scale * torch.stack(others).mean(0)
        assert float((mean - own).norm()) <= 10 * tolerance * float(own.norm()) + 1e-6
