"""DP-SGD by Opacus in a LightningModule that knows nothing of it."""

import builtins
import json
import logging
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from fits import Grey, Net, fit, images, lines
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from test_defence import Keeps
from torch import nn
from torch.utils.data import TensorDataset

from leakage_audit.callbacks import LeakageAudit, LeakageGate
from leakage_audit.callbacks.private_training import PrivateTraining
from leakage_audit.defences.dp_sgd import OpacusMissing

opacus = pytest.importorskip("opacus")
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.*Secure RNG", "ignore:Optimal order")


class Plain(Net):
    """Without dropout; notes what its optimiser used, batches and weights."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*[part for part in self.net if not isinstance(part, nn.Dropout)])
        self.batches, self.weights, self.used = [], [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        self.weights.append({name: p.detach().clone() for name, p in self.named_parameters()})
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.used.append({name: p.grad.clone() for name, p in self.named_parameters()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(folder, *callbacks, module=Plain, **kwargs):
    kwargs = {"max_steps": 3, "batch_size": 16, "data": images(64), "max_epochs": -1} | kwargs
    return fit(folder, *callbacks, module=module, **kwargs)


def test_epsilon_is_opacus_own_and_is_logged(tmp_path):
    private = PrivateTraining(noise_multiplier=0.8, delta=1e-3)
    trainer, _ = run(tmp_path, private, max_steps=5)
    accountant = opacus.accountants.RDPAccountant()
    for _ in range(5):
        accountant.step(noise_multiplier=0.8, sample_rate=16 / 64)
    assert float(trainer.callback_metrics["audit/epsilon"]) == pytest.approx(accountant.get_epsilon(1e-3))
    assert private.epsilon_after(1) > private.epsilon


def test_the_step_is_clipped_and_summed_image_by_image(tmp_path):
    """With next to no noise the gradient that was used is that of a loop over the batch."""
    _, module = run(tmp_path, PrivateTraining(noise_multiplier=1e-6, max_grad_norm=0.3), max_steps=2)
    for batch, weights, used in zip(module.batches, module.weights, module.used, strict=True):
        fresh = Plain()
        fresh.load_state_dict(weights)
        total = {name: torch.zeros_like(p) for name, p in fresh.named_parameters()}
        for x, y in zip(*batch, strict=True):
            own = torch.autograd.grad(F.cross_entropy(fresh(x[None]), y[None]), list(fresh.parameters()))
            norm = float(torch.cat([g.flatten() for g in own]).norm())
            for name, g in zip(total, own, strict=True):
                total[name] += g * min(1.0, 0.3 / norm) / 16
        assert all(torch.allclose(used[name], g, atol=1e-5) for name, g in total.items())


def test_the_audit_sees_exactly_what_is_shared_and_changes_nothing(tmp_path):
    attack = Keeps()
    audit = LeakageAudit(every_n_steps=1, attacks=[attack], gradient="step", on_error="raise", limit=0)
    _, audited = run(tmp_path, audit, PrivateTraining(noise_multiplier=1.0))
    _, alone = run(tmp_path, PrivateTraining(noise_multiplier=1.0))
    assert all(torch.equal(p, q) for p, q in zip(audited.parameters(), alone.parameters(), strict=True))
    assert len(attack.seen) == 6
    for seen, used in zip(attack.seen[1::2], audited.used, strict=True):
        assert all(torch.equal(seen[name], used[name]) for name in used)
    record = json.loads(next(tmp_path.rglob("audit.jsonl")).read_text().splitlines()[0])
    assert record["defence"]["dp_sgd"]["noise_multiplier"] == 1.0


def test_the_robustness_curve_stands_beside_what_was_measured(tmp_path):
    """Every audit's images count; the bound is that of one step, from the share that the guess brings so near."""
    noisy, labels = images(64).tensors
    flat = 0.6 + 0.001 * torch.arange(64).view(-1, 1, 1, 1) + torch.zeros_like(noisy)
    data = TensorDataset(torch.where(labels.view(-1, 1, 1, 1) % 2 == 0, flat, noisy), labels)
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey(0.13)], probe="batch", samples=4, limit=0)
    trainer, _ = run(tmp_path, audit, PrivateTraining(noise_multiplier=2.0), data=data)
    samples = [sample for line in lines(tmp_path) for sample in line["samples"]]
    guesses = {sample["floor"]["psnr"][0] for sample in samples}
    found = [sample["attacks"]["grey"]["psnr"][0] for sample in samples]

    def expected(psnr):
        kappa = sum(g >= psnr for g in guesses) / len(guesses) or 1 / (len(guesses) + 1)
        bound = 1.0 if kappa == 1 else NormalDist().cdf(NormalDist().inv_cdf(kappa) + 1 / 2)
        return bound, sum(f >= psnr for f in found) / len(found)

    curve = lines(tmp_path)[-1]["robustness"]
    assert [point["psnr"] for point in curve] == sorted({*guesses, *found})
    for point in curve:
        assert (point["bound"], point["measured"]) == pytest.approx(expected(point["psnr"]))
    bound, measured = expected(sum(guesses) / len(guesses) + 6)
    assert 0 < measured < 1
    assert float(trainer.callback_metrics["audit/robustness/bound"]) == pytest.approx(bound)
    assert float(trainer.callback_metrics["audit/robustness/measured"]) == pytest.approx(measured)


def test_no_other_training_has_a_robustness_curve(tmp_path):
    fit(tmp_path, LeakageAudit(attacks=[Grey()], limit=0), max_steps=1)
    assert "robustness" not in lines(tmp_path)[0]
    assert not any("robustness" in name for name in lines(tmp_path)[0]["metrics"])


def test_the_gate_stops_the_fit_before_the_budget_is_exceeded(tmp_path, caplog):
    private = PrivateTraining(noise_multiplier=1.0, delta=1e-3)
    gate = LeakageGate({"audit/epsilon": 3.0}, action="stop")
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        trainer, _ = run(tmp_path, private, gate, max_steps=50)
    assert trainer.global_step < 50
    assert private.epsilon <= 3.0 < private.epsilon_after(1)
    assert "the privacy budget is spent" in caplog.text
    assert gate.verdict == "passed"


def test_a_target_is_spent_by_the_end(tmp_path):
    private = PrivateTraining(target_epsilon=8.0, delta=1e-3)
    run(tmp_path, private, max_steps=10)
    assert 7.5 < private.epsilon <= 8.01


def test_batch_normalisation_is_refused_with_what_takes_its_place(tmp_path):
    class Normalised(Net):
        def __init__(self):
            super().__init__(nn.BatchNorm2d(4))

    with pytest.raises(MisconfigurationException, match=r"net.4 \(BatchNorm2d\).*GroupNorm\(4, 4\)"):
        run(tmp_path, PrivateTraining(noise_multiplier=1.0), module=Normalised)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"accumulate_grad_batches": 2}, "accumulated batches"), ({"gradient_clip_val": 1.0}, "image by image")],
)
def test_what_breaks_the_promise_is_refused(tmp_path, settings, message):
    with pytest.raises(MisconfigurationException, match=message):
        run(tmp_path, PrivateTraining(noise_multiplier=1.0), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either noise_multiplier or target_epsilon"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be positive"),
        ({"target_epsilon": 0.0}, "target_epsilon must be positive"),
        ({"noise_multiplier": 1.0, "delta": 2.0}, "delta must lie between"),
        ({"noise_multiplier": 1.0, "accountant": "none"}, "accountant must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PrivateTraining(**settings)


def test_without_opacus_it_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("opacus"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(OpacusMissing, match="pip install"):
        PrivateTraining(noise_multiplier=1.0)


def test_a_limit_on_epsilon_needs_private_training(tmp_path):
    with pytest.raises(MisconfigurationException, match="is logged by PrivateTraining"):
        fit(tmp_path, LeakageAudit(attacks=[Grey()]), LeakageGate({"audit/epsilon": 8.0}), max_steps=1)
