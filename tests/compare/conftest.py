import pytest
from doubles import Dim

from leakage_audit.attacks import ATTACKS


@pytest.fixture(autouse=True)
def _dim(monkeypatch):
    monkeypatch.setitem(ATTACKS, "dim", Dim)
    Dim.calls, Dim.breaks_at = 0, None
