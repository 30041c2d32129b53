"""Audits in loops without a Trainer: the same records, verified, and a loop that does not notice."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fits import Grey, Raises, images, lines
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

import leakage_audit
from leakage_audit.callbacks import LeakageAudit, LeakageGate, LeakageLimitExceeded


class Net(nn.Module):
    """Dropout, batch normalisation, a first layer in place, a power iteration: all that moves in a forward pass."""

    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.rest = nn.Sequential(nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 5))

    def forward(self, x):
        return self.rest(self.first(x))


def plain(model, x, y):
    return F.cross_entropy(model(x), y)


def autocast(model, x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cross_entropy(model(x), y)


class Loop:
    """A loop as people write it: two epochs of four batches."""

    def __init__(self, folder=None, loss=plain, precision=None, accumulate=1, scaler=None, net=Net, compiled=False):
        torch.manual_seed(0)
        self.model, self.loss, self.accumulate, self.scaler = net(), loss, accumulate, scaler
        self.model = torch.compile(self.model, backend="eager") if compiled else self.model
        self.optimizer, self.folder = torch.optim.Adam(self.model.parameters(), 1e-2), folder
        self.loader, self.fabric = DataLoader(images(), batch_size=8, shuffle=True), None
        if precision is not None:
            self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
            self.model, self.optimizer = self.fabric.setup(self.model, self.optimizer)
            self.loader = self.fabric.setup_dataloaders(self.loader)

    def run(self, audited=True, **options):
        chosen = {"loss": F.cross_entropy, "attacks": [Grey()], "limit": 0, "every_n_steps": 1, "scaler": self.scaler}
        chosen |= {"log_dir": self.folder} | options
        audit = leakage_audit.watch(self.model, self.optimizer, **chosen) if audited else None
        for epoch in range(2):
            for i, (x, y) in enumerate(self.loader):
                accumulating = (i + 1) % self.accumulate != 0
                self._backward(self.loss(self.model, x, y))
                if audit is not None:
                    audit.step((x, y), accumulating=accumulating, epoch=epoch)
                if not accumulating:
                    self._step()
        if audit is not None:
            audit.close()
        return self

    def traces(self):
        """What an audit might have changed."""
        moments = [v for state in self.optimizer.state_dict()["state"].values() for v in state.values()]
        hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in self.model.modules()]
        return [*self.model.state_dict().values(), *moments, torch.tensor(hooks), torch.rand(3)]

    def _backward(self, loss):
        if self.fabric is not None:
            self.fabric.backward(loss)
        else:
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _step(self):
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


LOOPS = {
    "plain": {},
    "autocast": {"loss": autocast},
    "float16's scaler": {"scaler": scaler},
    "accumulating": {"accumulate": 2},
    "compiled": {"compiled": True},
    "fabric": {"precision": "32-true"},
    "fabric, bf16-mixed": {"precision": "bf16-mixed"},
    "fabric, bf16-true": {"precision": "bf16-true"},
    "fabric, 64-true": {"precision": "64-true"},
    "fabric, accumulating": {"precision": "32-true", "accumulate": 4},
}


def make(name, folder=None):
    """A loop of the table; what has a state is made anew."""
    return Loop(folder, **{key: value() if key == "scaler" else value for key, value in LOOPS[name].items()})


@pytest.mark.parametrize("gradient", ["sample", "step"])
@pytest.mark.parametrize("name", LOOPS)
def test_every_step_is_audited_verified_and_not_touched(name, gradient, tmp_path):
    found = make(name, tmp_path).run(gradient=gradient).traces()
    records = lines(tmp_path)
    assert [record.get("skipped") for record in records] == [None] * (8 // LOOPS[name].get("accumulate", 1))
    assert all(record["verified"]["error"] <= record["verified"]["tolerance"] for record in records)
    assert [record["step"] for record in records] == list(range(len(records)))
    assert records[-1]["epoch"] == 1
    for mine, other in zip(found, make(name).run(audited=False).traces(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_records_are_those_of_the_callback(tmp_path):
    Loop(tmp_path).run(attacks=["rgap"], samples=1)
    assert [len(record["samples"]) for record in lines(tmp_path)] == [1] * 8
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} >= {"audit", "events", "report", "junit"}


def test_without_a_place_each_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Loop().run()
    Loop().run()
    assert {path.name for path in Path("leakage_audit").iterdir()} == {"run_0", "run_1"}


def test_the_loops_own_logger(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    Loop().run(logger=logger, measure_every_n_steps=1, every_n_steps=4)
    assert "audit/psnr/grey" in (tmp_path / "metrics.csv").read_text()
    assert (tmp_path / "audit.jsonl").is_file()


def test_an_optimisers_closure(tmp_path):
    def train(audit):
        for x, y in loop.loader:

            def closure(x=x, y=y):
                loop.optimizer.zero_grad()
                loss = F.cross_entropy(loop.model(x), y)
                loss.backward()
                audit.step((x, y))
                return loss

            loop.optimizer.step(closure)

    loop = Loop(tmp_path)
    with leakage_audit.watch(loop.model, loop.optimizer, attacks=[Grey()], limit=0, log_dir=tmp_path) as audit:
        train(audit)
    (record,) = lines(tmp_path)
    assert "verified" in record
    assert (tmp_path / "report.html").is_file()


def test_a_validation_between_the_steps(tmp_path):
    """Forward passes that belong to no step, with and without gradients."""
    loop = Loop(tmp_path)
    x, y = next(iter(loop.loader))
    with leakage_audit.watch(
        loop.model, loop.optimizer, attacks=[Grey()], limit=0, log_dir=tmp_path, every_n_steps=1
    ) as audit:
        for _ in range(2):
            loop.model.eval()
            with torch.no_grad():
                loop.model(x)
            loop.model(x)
            loop.model.train()
            F.cross_entropy(loop.model(x), y).backward()
            assert audit.step((x, y)).skipped is None
            loop.optimizer.step()
            loop.optimizer.zero_grad()


def test_end_says_how_many_and_why_not(tmp_path, caplog):
    def smoothed(model, x, y):
        return F.cross_entropy(model(x), y, label_smoothing=0.2)

    with caplog.at_level(logging.WARNING, "leakage_audit"):
        Loop(tmp_path, loss=smoothed).run()
    assert "0 of 8 audits took place, 8 skipped (3 of them not tried" in caplog.text
    assert "most often: the step's gradient differs" in caplog.text
    assert all("label smoothing" in record["skipped"] for record in lines(tmp_path))


def test_an_attack_that_fails_does_not_end_the_loop(tmp_path):
    Loop(tmp_path).run(attacks=[Raises()])
    assert all("always fails" in record["problems"]["raises"] for record in lines(tmp_path))


def test_a_batch_that_is_not_understood_is_said(tmp_path):
    loop = Loop(tmp_path)
    audit = leakage_audit.watch(loop.model, loop.optimizer, attacks=[Grey()], limit=0, log_dir=tmp_path)
    x, y = next(iter(loop.loader))
    F.cross_entropy(loop.model(x), y).backward()
    assert "no floating-point images" in audit.step({"nothing": 3}).skipped
    audit.close()


def test_a_gate_stops_the_loop(tmp_path):
    loop = Loop(tmp_path)
    gate = LeakageGate({"audit/psnr/*": -10.0}, action="stop")
    with leakage_audit.watch(
        loop.model, loop.optimizer, attacks=[Grey()], limit=0, log_dir=tmp_path, gate=gate
    ) as audit:
        for x, y in loop.loader:
            F.cross_entropy(loop.model(x), y).backward()
            audit.step((x, y))
            assert audit.should_stop
            break
    assert json.loads((tmp_path / "report.json").read_text())["verdict"]["gates"] == "exceeded"


def test_a_gate_fails_the_loop(tmp_path):
    with pytest.raises(LeakageLimitExceeded, match="step 0"):
        Loop(tmp_path).run(gate=LeakageGate({"audit/psnr/*": -10.0}, action="fail"))


def test_a_gate_that_could_not_judge_fails_at_the_end_and_the_report_is_there(tmp_path):
    gate = LeakageGate({"audit/limit": 20.0}, action="fail", unknown="warn")
    with pytest.raises(LeakageLimitExceeded, match="could not be judged"):
        Loop(tmp_path).run(gate=gate)
    assert (tmp_path / "report.html").is_file()


def test_a_resumed_loop_goes_on_counting_and_follows_the_same_images(tmp_path):
    def train(folder, state=None):
        loop = Loop()
        with leakage_audit.watch(
            loop.model, loop.optimizer, attacks=[Grey()], limit=0, log_dir=tmp_path / folder, every_n_steps=3
        ) as audit:
            if state is not None:
                audit.load_state_dict(state)
            for x, y in loop.loader:
                loop.optimizer.zero_grad()
                F.cross_entropy(loop.model(x), y).backward()
                audit.step((x, y))
            return audit.state_dict()

    train("third", train("second", train("first")))
    steps = [[one["optimizer_step"] for one in lines(tmp_path / name)] for name in ("first", "second", "third")]
    assert steps == [[0, 3], [6], [9]]
    probes = [torch.load(path, weights_only=True)[0] for path in tmp_path.rglob("probe_0.pt")]
    assert len(probes) == 3
    assert all(torch.equal(probe, probes[0]) for probe in probes)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("FullyShardedDataParallel", "each process holds only a shard"),
        ("DeepSpeedEngine", "its engine does backward and step by itself"),
    ],
)
def test_what_shards_is_refused(kind, message):
    model = type(kind, (nn.Linear,), {})(2, 2)
    with pytest.raises(MisconfigurationException, match=f"under {kind}: {message}"):
        leakage_audit.watch(model, torch.optim.SGD(model.parameters(), 0.1))


def test_lbfgs_is_refused():
    model = Net()
    with pytest.raises(MisconfigurationException, match="L-BFGS"):
        leakage_audit.watch(model, torch.optim.LBFGS(model.parameters()))


def test_options_are_the_callbacks_and_checked():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        leakage_audit.watch(model, optimizer, samples=0)
    with pytest.raises(TypeError, match="every_step"):
        leakage_audit.watch(model, optimizer, every_step=0)
    assert not model._forward_pre_hooks
    assert isinstance(leakage_audit.watch(model, optimizer, attacks=["rgap"]).audit, LeakageAudit)


def test_the_engine_alone_does_not_load_lightning():
    code = "import sys, leakage_audit; assert 'leakage_audit.callbacks' not in sys.modules; leakage_audit.watch"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="wath"):
        _ = leakage_audit.wath
