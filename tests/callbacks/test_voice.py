"""What a user hears who has set up no logging."""

import logging

import pytest
from fits import Grey, Net, fit

from leakage_audit.callbacks import LeakageAudit


@pytest.fixture
def heard():
    """What goes to the handler that Lightning gives its own logger."""
    messages = []

    class Listens(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, own, listens = logging.getLogger("lightning.pytorch"), logging.getLogger("leakage_audit"), Listens()
    level = logger.level
    logger.addHandler(listens)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(listens)
    logger.setLevel(level)
    own.setLevel(logging.NOTSET)


def test_what_was_read_is_one_line_and_the_sum_another(tmp_path, heard):
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0))
    assert [line for line in heard if "audit" in line and "logger" not in line] == [
        "audit reads the module thus: scores by forward; loss cross entropy; "
        "input = (image - 0) / 1 (none found: inputs are images)",
        "leakage audit: 3 of 3 audits took place",
    ]


def test_a_level_of_its_own_silences_it(tmp_path, heard):
    logging.getLogger("leakage_audit").setLevel(logging.WARNING)
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0))
    assert not [line for line in heard if "audit reads" in line or "took place" in line]


def test_a_factor_of_the_gradient_is_told_once(tmp_path, caplog):
    class Halves(Net):
        def training_step(self, batch, batch_idx):
            return (1 + batch_idx) * super().training_step(batch, batch_idx)

    with caplog.at_level(logging.WARNING, "leakage_audit"):
        fit(tmp_path, LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0), module=Halves)
    assert len([r for r in caplog.records if "times the recomputed gradient" in r.message]) == 1
