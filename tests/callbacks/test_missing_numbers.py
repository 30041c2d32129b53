"""An audit without a number leaves none of an earlier audit's to EarlyStopping and ModelCheckpoint."""

import logging

from fits import Grey, Sleeps, fit
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.scores import PSNR_CAP


class OnceOnly(Grey):
    """Has a result at the first audit, none afterwards."""

    def __init__(self):
        super().__init__()
        self.audits = 0

    def reconstruct(self, seen, budget):
        self.audits += 1
        if self.audits > 1:
            raise RuntimeError("no more")
        return super().reconstruct(seen, budget)


class Watches(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *args):
        self.seen.append(float(trainer.callback_metrics["audit/psnr/grey"]))


def test_no_number_counts_as_the_worst_and_not_as_the_last_one(tmp_path):
    watches = Watches()
    fit(tmp_path, LeakageAudit(every_n_steps=1, attacks=[OnceOnly()], samples=1, limit=0), watches, max_steps=3)
    assert watches.seen[0] < 60
    assert watches.seen[1:] == [PSNR_CAP] * len(watches.seen[1:])


def test_there_is_a_name_from_the_first_audit_on(tmp_path):
    audit = LeakageAudit(attacks=[Sleeps()], samples=1, limit=0, max_seconds=0.05)
    attached, _ = fit(tmp_path, audit, max_steps=1)
    assert attached.callback_metrics["audit/psnr/sleeps"] == PSNR_CAP


def test_a_checkpoint_without_a_number_is_never_the_best(tmp_path):
    checkpoint = ModelCheckpoint(
        tmp_path / "kept", monitor="audit/psnr/grey", mode="min", every_n_train_steps=1, filename="{step}"
    )
    audit = LeakageAudit(every_n_steps=1, attacks=[OnceOnly()], samples=1, limit=0)
    fit(tmp_path, audit, checkpoint, max_steps=3, enable_checkpointing=True)
    assert "step=1" in checkpoint.best_model_path


def test_stopping_early_takes_no_number_for_no_improvement(tmp_path):
    stops = EarlyStopping("audit/psnr/grey", mode="min", patience=9, check_on_train_epoch_end=True)
    audit = LeakageAudit(every_n_steps=1, attacks=[OnceOnly()], samples=1, limit=0)
    attached, _ = fit(tmp_path, audit, stops, max_steps=-1, max_epochs=3)
    assert attached.current_epoch == 3


def test_what_cannot_be_verified_is_tried_more_and_more_rarely(tmp_path, caplog):
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0, loss="torch.nn.functional.multi_margin_loss")
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        fit(tmp_path, audit, max_steps=8)
    # Steps 0, 1, 2, then 4, then 7.
    assert "0 of 8 audits took place, 8 skipped (3 of them not tried, after several in a row had failed)" in caplog.text
    assert audit.count == 8
