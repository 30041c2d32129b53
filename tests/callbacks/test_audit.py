import gc
import json
import logging
import math
import weakref

import pytest
import torch
from fits import Allocates, Grey, Net, Raises, Sleeps, fit, images, lines, same, traces
from torch import nn
from torch.utils.data import TensorDataset

from leakage_audit.callbacks import LeakageAudit, run_folder


@pytest.fixture(scope="module")
def unaudited():
    """By seed, the traces of a fit without an audit, which those with each kind of audit are compared with."""
    return {}


class TestTrace:
    """Weights, optimiser, gradients, modes, hooks and random streams, bit for bit, with and without."""

    @pytest.mark.parametrize("settings", [{}, {"gradient": "step"}, {"probe": "batch"}, {"measure_every_n_steps": 1}])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_none_is_left(self, tmp_path, seed, settings, unaudited):
        audit = LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0, **settings)
        with_audit = traces(*fit(tmp_path, audit, seed=seed, max_steps=10))
        assert audit.latest.skipped is None
        if seed not in unaudited:
            unaudited[seed] = traces(*fit(tmp_path, seed=seed, max_steps=10))
        assert same(with_audit, unaudited[seed])

    @pytest.mark.parametrize("gradient", ["sample", "step"])
    def test_none_is_left_by_the_limit(self, tmp_path, gradient):
        audit = LeakageAudit(every_n_steps=4, attacks=[Grey()], samples=1, gradient=gradient, max_seconds=1.0)
        with_audit = traces(*fit(tmp_path, audit, max_steps=5, batch_size=2))
        assert audit.latest.skipped is None
        assert same(with_audit, traces(*fit(tmp_path, max_steps=5, batch_size=2)))

    @pytest.mark.parametrize("attack", [Raises(), Sleeps(), Allocates()])
    def test_none_is_left_by_an_attack_that_misbehaves(self, tmp_path, attack):
        audit = LeakageAudit(every_n_steps=5, attacks=[attack, Grey()], limit=0, max_seconds=1.5)
        with_audit = traces(*fit(tmp_path, audit, max_steps=10))
        assert same(with_audit, traces(*fit(tmp_path, max_steps=10)))
        assert "audit/psnr/grey" in audit.latest.metrics

    def test_none_is_left_by_an_interruption(self, tmp_path):
        class Noted(LeakageAudit):
            def on_exception(self, trainer, pl_module, exception):
                super().on_exception(trainer, pl_module, exception)
                self.stream = torch.get_rng_state()

        audit = Noted(every_n_steps=4, attacks=[Raises(SystemExit)])
        with pytest.raises(SystemExit):
            fit(tmp_path, audit)
        without = Noted(attacks=[])
        without.on_before_optimizer_step = lambda *_: (_ for _ in ()).throw(SystemExit)
        with pytest.raises(SystemExit):
            fit(tmp_path, without)
        assert torch.equal(audit.stream, without.stream)

    def test_nothing_stays_in_memory(self, tmp_path):
        audit = LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0)
        held = []

        class Watch(LeakageAudit):
            def on_train_batch_start(self, *_):
                if audit._session.reader.copies._start is not None:
                    held.append(weakref.ref(audit._session.reader.copies._start))

        fit(tmp_path, audit, Watch(attacks=[]))
        gc.collect()
        assert len(held) == 3
        assert all(network() is None for network in held)
        assert len(json.dumps(audit.state_dict())) < 500


class TestSchedule:
    def test_audits_happen_at_the_steps_promised(self, tmp_path):
        fit(tmp_path, LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0), max_steps=8)
        assert [line["optimizer_step"] for line in lines(tmp_path)] == [0, 3, 6]

    def test_accumulated_batches_are_one_step(self, tmp_path):
        audit = LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0)
        fit(tmp_path, audit, max_steps=5, accumulate_grad_batches=3)
        found = lines(tmp_path)
        assert [line["optimizer_step"] for line in found] == [0, 2, 4]
        assert all("skipped" not in line for line in found)

    def test_a_schedule_of_ones_own(self, tmp_path):
        class Powers(LeakageAudit):
            def should_audit(self, step):
                return math.log2(step + 1).is_integer()

        fit(tmp_path, Powers(attacks=[Grey()]), max_steps=9)
        assert [line["optimizer_step"] for line in lines(tmp_path)] == [0, 1, 3, 7]

    def test_measures_on_a_schedule_of_their_own(self, tmp_path):
        fit(tmp_path, LeakageAudit(every_n_steps=4, attacks=[Grey()], limit=0, measure_every_n_steps=2))
        found = [(line["optimizer_step"], line["kind"]) for line in lines(tmp_path)]
        assert found == [(0, "audit"), (2, "measure"), (4, "audit")]
        audited, measured = lines(tmp_path)[:2]
        layers = {"audit/layer/0/deficiency", "audit/layer/2/deficiency"}
        assert set(measured["metrics"]) == {"audit/c", "audit/joint_deficiency", *layers}
        assert measured["metrics"]["audit/joint_deficiency"] == 0  # the attack of this test invents another
        assert all(measured["metrics"][name] == audited["metrics"][name] for name in ("audit/c", *layers))

    def test_a_dead_filter_is_worth_a_closer_measure(self, tmp_path):
        class Pruned(Net):
            def __init__(self):
                super().__init__()
                with torch.no_grad():
                    self.net[2].weight[0] = 0

            def on_after_backward(self):
                self.net[2].weight.grad[0] = 0

        audit = LeakageAudit(every_n_steps=100, attacks=[], measure_every_n_steps=1, mean=0.0, std=1.0)
        fit(tmp_path, audit, module=Pruned, max_steps=3)
        assert audit.latest.metrics["audit/layer/2/condition"] > 0  # only the systems themselves have one

    def test_measures_of_a_network_that_is_no_chain(self, tmp_path):
        audit = LeakageAudit(every_n_steps=100, attacks=[], measure_every_n_steps=1)
        fit(tmp_path, audit, module=lambda: Net(nn.BatchNorm2d(4)))
        assert set(audit.latest.metrics) == {"audit/layer/0/deficiency", "audit/layer/2/deficiency"}

    def test_overhead_thins_the_schedule_out(self, tmp_path):
        audit = LeakageAudit(
            every_n_steps=1, attacks=[Sleeps()], limit=0, max_seconds=0.3, samples=1, max_overhead=1e-6
        )
        fit(tmp_path, audit, max_steps=12)
        assert [line["optimizer_step"] for line in lines(tmp_path)] == [0]

    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
    def test_a_resumed_fit_goes_on_with_schedule_and_images(self, tmp_path):
        settings = {"every_n_steps": 4, "attacks": [Grey()]}
        attached, _ = fit(tmp_path / "a", LeakageAudit(**settings), max_steps=6)
        attached.save_checkpoint(tmp_path / "last.ckpt")
        resumed = LeakageAudit(**settings)
        fit(tmp_path / "b", resumed, max_steps=14, seed=9, ckpt_path=tmp_path / "last.ckpt")
        before, after = lines(tmp_path / "a"), lines(tmp_path / "b")
        assert [line["optimizer_step"] for line in after] == [8, 12]
        floors = [[sample["floor"] for sample in line["samples"]] for line in before + after]
        assert all(floor == floors[0] for floor in floors)


class TestSkips:
    """Each a skipped audit with its reason in the record; the fit goes on."""

    def skipped(self, tmp_path, *callbacks, **kwargs):
        audit = LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0, **kwargs.pop("settings", {}))
        attached, _ = fit(tmp_path, *callbacks, audit, **kwargs)
        assert attached.global_step == 6
        found = lines(tmp_path)
        assert len(found) == 3
        assert all(not line["metrics"] for line in found)
        assert audit.latest.skipped == found[-1]["skipped"]
        return found[0]["skipped"]

    def test_a_penalty_beside_the_loss(self, tmp_path):
        class Penalised(Net):
            def training_step(self, batch, batch_idx):
                penalty = sum(p.square().sum() for p in self.parameters())
                return nn.functional.cross_entropy(self(batch[0]), batch[1]) + 0.1 * penalty

        assert "label smoothing, mixup" in self.skipped(tmp_path, module=Penalised)

    @pytest.mark.parametrize(("value", "words"), [(math.nan, "NaN or infinite"), (0.0, "every gradient is zero")])
    def test_gradients_without_content(self, tmp_path, value, words):
        class Poisoned(Net):
            def on_after_backward(self):
                for p in self.parameters():
                    p.grad.fill_(value)

        assert words in self.skipped(tmp_path, module=Poisoned)

    def test_batches_that_are_not_understood(self, tmp_path):
        data = TensorDataset(torch.rand(16, 3, 8, 8), 2 * torch.rand(16, 5))
        assert "no integer labels" in self.skipped(tmp_path, data=data)

    def test_labels_out_of_range(self, tmp_path):
        class Modulo(Net):
            def training_step(self, batch, batch_idx):
                return nn.functional.cross_entropy(self(batch[0]), batch[1] % 5)

        data = images()
        shifted = TensorDataset(data.tensors[0], data.tensors[1] + 5)
        assert "Target" in self.skipped(tmp_path, module=Modulo, data=shifted)

    def test_each_reason_is_said_once(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING, "leakage_audit"):
            self.skipped(tmp_path, settings={"unpack": lambda batch: batch["image"]})
        assert len([r for r in caplog.records if " skipped: " in r.message]) == 1
        assert caplog.records[-1].message.startswith("leakage audit: 0 of 3 audits took place, 3 skipped, most often: ")

    def test_what_is_read_without_doubt_is_no_warning(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, "leakage_audit"):
            fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0))
        assert [r.levelname for r in caplog.records if "audit reads the module thus" in r.message] == ["INFO"]
        assert caplog.records[-1].message == "leakage audit: 3 of 3 audits took place"


class TestProblems:
    def test_an_unreadable_network_is_attacked_without_its_layer_table(self, tmp_path, caplog):
        audit = LeakageAudit(every_n_steps=2, attacks=["rgap", Grey()], limit=0)
        with caplog.at_level(logging.WARNING, "leakage_audit"):
            fit(tmp_path, audit, module=lambda: Net(nn.BatchNorm2d(4)))
        assert set(audit.latest.metrics) >= {"audit/psnr/grey", "audit/ssim/grey"}
        assert "audit/c" not in audit.latest.metrics
        assert "batch normalisation" in lines(tmp_path)[0]["problems"]["c"]
        assert len([r for r in caplog.records if r.message.startswith("rgap is not available")]) == 1

    def test_what_cannot_be_written_does_not_end_the_fit(self, tmp_path, caplog, monkeypatch):
        (tmp_path / "leakage_audit").mkdir()
        (tmp_path / "leakage_audit/run_0").write_text("in the way")
        folder = tmp_path / "leakage_audit/run_1"
        original = run_folder._new_folder

        def occupied(root):
            assert original(root) == folder
            (folder / "audit.jsonl").mkdir()
            (folder / "images").write_text("in the way")
            return folder

        monkeypatch.setattr(run_folder, "_new_folder", occupied)
        audit = LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0)
        with caplog.at_level(logging.WARNING, "leakage_audit"):
            attached, _ = fit(tmp_path, audit)
        assert attached.global_step == 6
        assert "audit/psnr/grey" in attached.callback_metrics
        assert len([r for r in caplog.records if "could not be written" in r.message]) == 2

    def test_an_attack_that_fails_is_noted_and_the_others_go_on(self, tmp_path):
        audit = LeakageAudit(every_n_steps=5, attacks=[Raises(), Grey()], limit=0)
        fit(tmp_path, audit)
        assert lines(tmp_path)[0]["problems"] == {"raises": "RuntimeError: this attack always fails"}
        assert "audit/psnr/grey" in audit.latest.metrics

    def test_or_ends_the_fit_if_asked(self, tmp_path):
        with pytest.raises(RuntimeError, match="this attack always fails"):
            fit(tmp_path, LeakageAudit(attacks=[Raises()], limit=0, on_error="raise"))

    def test_an_attack_out_of_time_returns_its_best_marked(self, tmp_path):
        fit(tmp_path, LeakageAudit(every_n_steps=5, attacks=[Sleeps(), Grey()], limit=0, max_seconds=2.0))
        for sample in lines(tmp_path)[0]["samples"]:
            assert sample["attacks"]["sleeps"]["out_of_time"]
            assert sample["attacks"]["sleeps"]["seconds"] < 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"attacks": ["no such"]}, "unknown attack 'no such'"),
        ({"attacks": [Grey(), Grey()]}, "two attacks are called 'grey'"),
        ({"attacks": [3]}, "attacks must be names or attacks, got 3"),
        ({"gradient": "batch"}, "gradient must be one of sample, step, got 'batch'"),
        ({"probe": "random"}, "probe must be one of"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"max_seconds": 0.0}, "max_seconds must be positive"),
        ({"max_overhead": -1.0}, "max_overhead must be positive"),
        ({"measure_every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"on_error": "ignore"}, "on_error must be one of warn, raise"),
        ({"optimizer": -1}, "optimizer is an index"),
        ({"value_range": (1.0, 0.0)}, "value_range must be"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        LeakageAudit(**({"attacks": [Grey()]} | settings))
