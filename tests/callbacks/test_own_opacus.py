"""Opacus set up by the user himself, the way its own documentation does it: the audit sees what is really shared."""

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fits import fit, images, lines, same, traces
from test_defence import Keeps
from test_defence_mechanisms import scaled
from test_private_training import Plain
from torch import nn
from torch.utils.data import DataLoader

from leakage_audit import observe, security_metric
from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.own_opacus import opacus_of
from leakage_audit.callbacks.private_training import PrivateTraining
from leakage_audit.callbacks.watch import watch

opacus = pytest.importorskip("opacus")
optimizers = pytest.importorskip("opacus.optimizers")
BatchMemoryManager = pytest.importorskip("opacus.utils.batch_memory_manager").BatchMemoryManager
DPOptimizer, DistributedDPOptimizer = optimizers.DPOptimizer, optimizers.DistributedDPOptimizer
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.*Secure RNG", "ignore:Optimal order")


class Own(Plain):
    """Calls `make_private` in `configure_optimizers`, on itself or on its network, as Opacus' example for Lightning."""

    def __init__(self, part=None, use=True, **settings):
        super().__init__()
        self.engine, self._part, self._use = opacus.PrivacyEngine(), part, use
        self._settings = {"noise_multiplier": 1.0, "max_grad_norm": 0.5} | settings

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        self.trainer.fit_loop.setup_data()
        wrapped, private, _ = self.engine.make_private(
            module=self if self._part is None else getattr(self, self._part), optimizer=optimizer,
            data_loader=self.trainer.train_dataloader, **self._settings,
        )  # fmt: skip
        if self._part is None:
            self.__dict__["wrapped"] = wrapped
        else:
            setattr(self, self._part, wrapped)
        return private if self._use else optimizer


def run(folder, *callbacks, module, steps=3):
    return fit(folder, *callbacks, module=module, max_steps=steps, max_epochs=-1, batch_size=16, data=images(64))


def audit(attack, gradient="step"):
    return LeakageAudit(every_n_steps=1, attacks=[attack], gradient=gradient, on_error="raise", limit=0)


@pytest.mark.parametrize("part", [None, "net"])
def test_the_audit_sees_the_noised_sum_that_the_optimiser_uses(tmp_path, part):
    attack = Keeps()
    _, module = found = run(tmp_path, audit(attack), module=lambda: Own(part))
    audited = traces(*found)
    assert len(attack.seen) == 6
    for seen, used in zip(attack.seen[1::2], module.used, strict=True):
        assert all(torch.equal(seen[name], used[name]) for name in used)
    assert json.loads(json.dumps(lines(tmp_path)[0]["defence"]))["dp_sgd"]["noise_multiplier"] == 1.0
    assert same(audited, traces(*run(tmp_path / "alone", module=lambda: Own(part))))


def test_who_knows_it_knows_its_noise_of_a_single_image(tmp_path):
    attack = Keeps()
    run(tmp_path, audit(attack, "sample"), module=lambda: Own(noise_multiplier=2.0), steps=1)
    known, unknown = (torch.cat([g.flatten() for g in seen.values()]) for seen in attack.seen[:2])
    assert unknown.std() == pytest.approx(2.0 * 0.5, rel=0.1)  # the gradient itself is no longer than half
    factor = known.norm() / unknown.norm()
    assert factor > 1  # by which the gradient was shortened
    assert torch.allclose(known, factor * unknown, rtol=1e-4)


def plain_loop(steps, watched, parts_of=None, measured=None):
    """Opacus' own loop; `parts_of` is the largest physical batch of its BatchMemoryManager."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5))
    loader = DataLoader(images(64), batch_size=16)
    model, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), data_loader=loader, noise_multiplier=1.0,
        max_grad_norm=0.5,
    )  # fmt: skip
    used, attack = [], Keeps()
    options = {"attacks": [attack], "gradient": "step", "every_n_steps": 1, "limit": 0}
    options |= {"on_error": "raise"} if parts_of is None else {}
    found = watch(model, optimizer, loss=F.cross_entropy, **options) if watched else None
    parts = parts_of and BatchMemoryManager(data_loader=loader, max_physical_batch_size=parts_of, optimizer=optimizer)
    with parts or nullcontext(loader) as batches:
        for _, (x, y) in zip(range(steps), batches, strict=False):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if found is not None:
                found.step((x, y))
            optimizer.step()
            own = model._module.named_parameters()
            used.append({name: p.grad.clone() for name, p in own if p.grad is not None})
    if found is not None:
        found.close()
        if measured is not None:
            measured.append(found.audit.latest)
    return attack.seen, used


def test_a_plain_loop_is_seen_through_likewise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen, used = plain_loop(2, watched=True)
    assert len(seen) == 4
    assert all(torch.equal(s[name], u[name]) for s, u in zip(seen[1::2], used, strict=True) for name in u)
    assert all(map(same, used, plain_loop(2, watched=False)[1]))


def test_c_of_a_plain_loop_is_that_of_the_network_that_opacus_has_wrapped(tmp_path, monkeypatch):
    """Opacus' wrapper cannot be followed, what it wraps can; no copy reaches the optimiser by its hooks' handles."""
    monkeypatch.chdir(tmp_path)
    step, measured = DPOptimizer.step, []
    plain_loop(2, watched=True, measured=measured)
    assert DPOptimizer.step is step
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5))
    seen = observe(bare, torch.rand(16, 3, 8, 8), torch.arange(16) % 5)
    assert measured[0].metrics["audit/c"] == security_metric(seen).c
    assert measured[0].metrics["audit/layer/0/deficiency"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipping": "per_layer", "max_grad_norm": [0.5] * 6}, "DPPerLayerOptimizer clips in another way"),
        ({"use": False, "poisson_sampling": False}, "is not the one that make_private returned"),
    ],
)
def test_what_cannot_be_seen_through_is_said_in_one_sentence(tmp_path, caplog, settings, message):
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        run(tmp_path, audit(Keeps()), module=lambda: Own(**settings), steps=2)
    found = [record for record in caplog.records if message in record.getMessage()]
    assert len(found) == 1
    assert found[0].levelno == logging.WARNING
    assert "defence" not in lines(tmp_path)[0]


@pytest.mark.parametrize("other", [GradientDefence(noise=0.1), PrivateTraining(noise_multiplier=1.0)])
def test_a_second_defence_is_refused(tmp_path, other):
    with pytest.raises(ValueError, match=f"in the place of what {type(other).__name__} leaves"):
        run(tmp_path, audit(Keeps()), other, module=Own)


def test_a_scaled_loss_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        fit(
            tmp_path, audit(Keeps()), module=Own, max_steps=1, max_epochs=-1, batch_size=16, data=images(64),
            plugins=[scaled(1024.0)],
        )  # fmt: skip
    assert "a scaled loss has scaled per-sample gradients" in caplog.text


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DPOptimizer, "their weights part, unless make_private is given"),
        (DistributedDPOptimizer, "added up within its own step"),
    ],
    ids=["processes that know nothing of each other", "Opacus' own for several"],
)
def test_several_processes_are_not_seen_through(kind, message):
    optimizer = kind.__new__(kind)  # on a single process Opacus makes none
    own, problem = opacus_of(SimpleNamespace(world_size=2), nn.Linear(2, 2), optimizer)
    assert own is None
    assert message in problem
    assert "leak more than what is shared" in problem


def other_optimizer(**settings):
    """As `make_private` left it, then set up otherwise."""

    class Otherwise(Own):
        def configure_optimizers(self):
            private = super().configure_optimizers()
            for name, value in settings.items():
                setattr(private, name, value)
            return private

    return Otherwise


def test_noise_that_cannot_be_drawn_again_is_not_seen_through(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "leakage_audit"):
        run(tmp_path, audit(Keeps()), module=other_optimizer(secure_mode=True), steps=1)
    assert "secure_mode draws noise that cannot be drawn again" in caplog.text


def test_batches_in_several_parts_are_skipped_with_the_reason(tmp_path, monkeypatch):
    """Steps that only add to the sum share nothing, and the last sees a part of the batch."""
    monkeypatch.chdir(tmp_path)
    seen, used = plain_loop(4, watched=True, parts_of=6)
    assert not seen
    skipped = [json.loads(line)["skipped"] for line in next(tmp_path.rglob("audit.jsonl")).read_text().splitlines()]
    assert len(skipped) == 4
    assert all("several parts" in reason for reason in skipped)
    assert all(map(same, used, plain_loop(4, watched=False, parts_of=6)[1]))


def test_a_loss_in_half_precision_is_seen_through(tmp_path):
    """bf16-mixed has no scale; what is audited is what the optimiser uses."""
    attack = Keeps()
    _, module = fit(
        tmp_path, audit(attack), module=Own, max_steps=2, max_epochs=-1, batch_size=16, data=images(64),
        precision="bf16-mixed",
    )  # fmt: skip
    assert len(attack.seen) == 4
    for seen, used in zip(attack.seen[1::2], module.used, strict=True):
        assert all(torch.equal(seen[name], used[name]) for name in used)
