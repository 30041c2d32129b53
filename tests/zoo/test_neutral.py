"""Each specimen's training bit for bit the same with and without the audit."""

import pytest

from zoo.catalogue import CASES
from zoo.fingerprint import differences
from zoo.fitting import fit


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_the_same_with_and_without(case, tmp_path):
    audited = fit(case, tmp_path / "with")
    assert audited.records
    assert differences(audited.fingerprint, fit(case, tmp_path / "without", audited=False).fingerprint) == []
