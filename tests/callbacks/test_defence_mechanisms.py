"""GradientDefence as a composition: from YAML and Python, per sample, accumulated, in mixed precision, on two ranks."""

import json

import pytest
import torch
import torch.nn.functional as F
from fits import Grey, Net, fit, images, same, traces, trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from processes import on_two_ranks
from test_defence import Keeps, Notes
from torch import nn
from torch.utils.data import DataLoader

from leakage_audit.callbacks import GradientDefence, LeakageAudit
from leakage_audit.cli.command_line import main
from leakage_audit.defences import Clip, ClipPerSample, DefenceError, GaussianNoise, PartialSharing, Prune, Quantize


class Plain(Notes):
    """Without dropout, so that every image has one gradient; keeps its batches."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*[part for part in self.net if not isinstance(part, nn.Dropout)])
        self.batches, self.weights = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        self.weights.append({name: p.detach().clone() for name, p in self.named_parameters()})
        return F.cross_entropy(self(batch[0]), batch[1])


def clipped_by_a_loop(module, batch, weights, bound):
    """Σ_i g_i · min(1, bound/‖g_i‖) / B, one backward pass an image."""
    module.load_state_dict(weights)
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for x, y in zip(*batch, strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(module(x[None]), y[None]), list(module.parameters()))
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for name, g in zip(total, gradients, strict=True):
            total[name] += g * min(1.0, bound / float(norm)) / len(batch[0])
    return total


def test_off_is_bit_identical(tmp_path):
    found = [
        traces(*fit(tmp_path, *defence, max_steps=6))
        for defence in ([], [GradientDefence(mechanisms=[Clip(1e9), Prune(1.0), GaussianNoise(0.0)])])
    ]
    assert same(*found)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_per_sample_clipping_is_what_a_loop_does(tmp_path, accumulate):
    defence = GradientDefence(mechanisms=[ClipPerSample(0.5)])
    _, module = fit(tmp_path, defence, module=Plain, max_steps=2, accumulate_grad_batches=accumulate)
    for step, got in enumerate(module.got):
        window = slice(step * accumulate, (step + 1) * accumulate)
        parts = [
            clipped_by_a_loop(Plain(), batch, weights, 0.5)
            for batch, weights in zip(module.batches[window], module.weights[window], strict=True)
        ]
        for name, g in got.items():
            assert torch.allclose(g, sum(part[name] for part in parts) / accumulate, atol=1e-6)


def test_the_audit_of_a_step_sees_it_too_and_who_knows_it_the_factors(tmp_path):
    attack = Keeps()
    audit = LeakageAudit(attacks=[attack], gradient="step", on_error="raise", limit=0)
    _, module = fit(tmp_path, audit, GradientDefence(mechanisms=[ClipPerSample(0.5)]), module=Plain, max_steps=1)
    assert len(attack.seen) == 2
    assert all(torch.equal(g, module.got[0][name]) for name, g in attack.seen[1].items())


def test_an_image_without_a_gradient_of_its_own_is_refused(tmp_path):
    class Normalised(Net):
        def __init__(self):
            super().__init__(nn.BatchNorm2d(4))

    with pytest.raises(MisconfigurationException, match=r"normalises over the batch.*GroupNorm"):
        fit(tmp_path, GradientDefence(mechanisms=[ClipPerSample(1.0)]), module=Normalised, max_steps=1)


def test_what_is_not_shared_is_not_trained(tmp_path):
    attack = Keeps()
    audit = LeakageAudit(attacks=[attack], gradient="step", on_error="raise", limit=0)
    _, module = fit(
        tmp_path, audit, GradientDefence(mechanisms=[PartialSharing("net.*", drop=["net.0.*"])]), module=Plain,
        max_steps=3,
    )  # fmt: skip
    assert not any(name.startswith("net.0") for seen in attack.seen for name in seen)
    first, last = module.weights[0], module.weights[-1]
    assert torch.equal(first["net.0.weight"], last["net.0.weight"])
    assert not torch.equal(first["net.2.weight"], last["net.2.weight"])


def test_names_are_the_modules_own_in_single_images_too(tmp_path):
    class Wrapped(Net):
        def __init__(self):
            super().__init__()
            self.body, self.net = self.net, None

        def forward(self, x):
            return self.body(x)

    attack = Keeps()
    audit = LeakageAudit(attacks=[attack], on_error="raise", limit=0, samples=1)
    fit(tmp_path, audit, GradientDefence(mechanisms=[PartialSharing(["body.6.*"])]), module=Wrapped, max_steps=1)
    assert [len(seen) for seen in attack.seen] == [2]  # there is nothing that only one who knows would see


def test_in_mixed_precision_the_audit_sees_what_the_optimiser_gets(tmp_path):
    attack = Keeps()
    audit = LeakageAudit(attacks=[attack], gradient="step", on_error="raise", limit=0)
    defence = GradientDefence(mechanisms=[Clip(0.1), Quantize(6)])
    _, module = fit(tmp_path, audit, defence, module=Notes, max_steps=1, precision="bf16-mixed")
    assert all(torch.equal(g, module.got[0][name]) for name, g in attack.seen[1].items())


@pytest.mark.parametrize("mechanism", [Clip(0.1), ClipPerSample(0.5)], ids=["clip", "clip per sample"])
def test_a_scaled_loss_is_audited_as_the_optimiser_gets_it(tmp_path, mechanism):
    attack = Keeps()
    audit = LeakageAudit(every_n_steps=1, attacks=[attack], gradient="step", on_error="raise", limit=0)
    defence = GradientDefence(mechanisms=[mechanism, GaussianNoise(0.01)])
    _, module = fit(tmp_path, audit, defence, module=Plain, max_steps=2, plugins=[scaled(1024.0)])
    assert len(attack.seen) == 4
    for seen, got in zip(attack.seen[1::2], module.got, strict=True):
        assert all(torch.equal(g, got[name]) for name, g in seen.items())


@pytest.mark.parametrize("mechanism", [Clip(0.1), ClipPerSample(0.5)], ids=["clip", "clip per sample"])
def test_a_step_that_the_scaler_leaves_out_is_none(tmp_path, mechanism):
    """Most fits in 16-mixed begin with some: the scale is halved until nothing overflows."""
    module, plugin = Plain(), scaled(2.0**30)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], gradient="step", on_error="raise", limit=0)
    fit(tmp_path, audit, GradientDefence(mechanisms=[mechanism]), module=module, max_steps=2, plugins=[plugin])
    assert plugin.scaler.get_scale() == 2.0**28
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert "nothing is shared" in audit.latest.skipped


def test_without_a_scaler_a_gradient_that_is_not_finite_is_an_error(tmp_path):
    class Diverged(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * float("inf")

    with pytest.raises(DefenceError, match="Clip returns NaN"):
        fit(tmp_path, GradientDefence(mechanisms=[Clip(0.1)]), module=Diverged, max_steps=1)


def scaled(scale):
    """16-mixed with its scaler on the CPU, where Lightning itself has none; PyTorch's is the same."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_from_yaml_and_by_a_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def halve(gradients):\n    return {k: g / 2 for k, g in gradients.items()}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(
        """
model: {class_path: leakage_audit.models.Variant, init_args: {variant: cnn2_v2}}
data: {class_path: leakage_audit.data.Synthetic, init_args: {train_images: 40, image_size: 12}}
trainer:
  accelerator: cpu
  max_steps: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  callbacks:
    - class_path: leakage_audit.callbacks.LeakageAudit
      init_args: {attacks: [rgap], samples: 1, limit: 0}
    - class_path: leakage_audit.callbacks.GradientDefence
      init_args:
        mechanisms:
          - class_path: leakage_audit.defences.Prune
            init_args: {share: 0.5}
          - class_path: leakage_audit.defences.GaussianNoise
            init_args: {std: 0.001}
          - mine.halve
"""
    )
    assert main(["fit", "--config", str(config), f"--trainer.default_root_dir={tmp_path / 'out'}"]) == 0
    record = json.loads(next(tmp_path.rglob("audit.jsonl")).read_text().splitlines()[0])
    prune, noise, own = record["defence"]["mechanisms"]
    assert (prune["share"], noise["std"], own) == (0.5, 0.001, "mine.halve")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanisms": []}, "must name at least one"),
        ({"mechanisms": [Prune()], "noise": 1.0}, "in place of mechanisms"),
        ({"mechanisms": ["no.such.thing"]}, "neither on the LightningModule nor importable"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientDefence(**settings)


def defended(folder):
    torch.manual_seed(1)
    defence = GradientDefence(mechanisms=[Clip(0.1), Prune(0.5), GaussianNoise(0.01)])
    attached = trainer(folder, defence, devices=2, strategy="ddp", max_steps=3)
    module = Net()
    attached.fit(module, DataLoader(images(), batch_size=4, shuffle=True))
    weights = {k: v.double().flatten().tolist() for k, v in module.state_dict().items()}
    (folder / f"{attached.global_rank}.json").write_text(json.dumps(weights))


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_ranks_stay_together(tmp_path):
    on_two_ranks(defended, tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == other


def test_an_audit_with_the_limit_knows_the_noise(tmp_path):
    audit = LeakageAudit(attacks=[Grey()], on_error="raise", samples=1)
    fit(tmp_path, audit, GradientDefence(clip=None, noise=100.0), max_steps=1)
    drowned = audit.latest.metrics["audit/limit"]
    assert drowned < 15
    free = LeakageAudit(attacks=[Grey()], on_error="raise", samples=1)
    fit(tmp_path, free, max_steps=1)
    assert free.latest.metrics["audit/limit"] > drowned + 5
