"""Every mode of the trainer, with and without an audit: nothing changes, and the step is understood."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fits import Grey, Net, fit, same, traces
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim.swa_utils import get_ema_avg_fn

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.capture.supported_trainers import refuse_unsupported


class Manual(Net):
    """Accumulates two batches by hand, clips by hand, two optimisers on two halves of the network."""

    clip = None

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / 2)
        if batch_idx % 2:
            for optimizer in (first, second):
                if self.clip is not None:
                    self.clip_gradients(optimizer, gradient_clip_val=self.clip)
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.AdamW(self.net[:3].parameters(), 1e-2), torch.optim.SGD(self.net[3:].parameters(), 1e-2)]


class ClippedByHand(Manual):
    clip = 1e-3


class Compiled(Net):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class Silent(Net):
    """Lightning 2.6's `log` cannot be compiled (#21836)."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


class Fused(Net):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2, fused=True)


def normalised():
    return Net(nn.BatchNorm2d(4), act=nn.ReLU)


MODES = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "accumulated, last window short": {"accumulate_grad_batches": 3},
    "clipped by norm": {"gradient_clip_val": 1e-2},
    "clipped by value": {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "64-true": {"precision": "64-true"},
    "manual, two optimisers": {"module": Manual},
    "manual, clipped": {"module": ClippedByHand},
    "compiled": {"module": Compiled},
    "compiled by Lightning": {"module": lambda: torch.compile(Silent(), backend="eager")},
    "batch normalisation": {"module": normalised},
    "fused": {"module": Fused},
}


def run(folder, mode, *callbacks):
    attached, module = fit(folder, *callbacks, max_steps=10, **mode)
    return traces(attached, getattr(module, "_orig_mod", module))


@pytest.fixture(scope="module")
def unaudited():
    """The traces of each mode's fit without an audit, which both kinds of gradient are compared with."""
    return {}


@pytest.mark.parametrize("gradient", ["sample", "step"])
@pytest.mark.parametrize("name", MODES)
def test_nothing_changes_and_the_step_is_understood(tmp_path, name, gradient, unaudited):
    mode = MODES[name]
    audit = LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0, gradient=gradient, on_error="raise")
    audited = run(tmp_path, mode, audit)
    if name not in unaudited:
        unaudited[name] = run(tmp_path, mode)
    assert same(audited, unaudited[name])
    if mode.get("module") is ClippedByHand and gradient == "step":
        assert "clipped by hand" in audit.latest.skipped
    else:
        assert audit.latest.skipped is None
        assert "audit/psnr/grey" in audit.latest.metrics


@pytest.mark.parametrize(
    "averaging", [lambda: WeightAveraging(avg_fn=get_ema_avg_fn(0.9)), lambda: StochasticWeightAveraging(1e-2, 1)]
)
def test_averaged_weights_are_as_without(tmp_path, averaging):
    audit = LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0, on_error="raise")
    mode = {"max_epochs": 4, "max_steps": -1}
    found = [traces(*fit(tmp_path, averaging(), *more, **mode)) for more in ((audit,), ())]
    assert same(*found)
    assert audit.latest.skipped is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="16-mixed scales the loss on CUDA only")
@pytest.mark.parametrize("module", [Net, Fused])
@pytest.mark.parametrize("gradient", ["sample", "step"])
def test_loss_scaling_is_undone(tmp_path, module, gradient):
    audit = LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0, gradient=gradient, on_error="raise")
    mode = {"module": module, "precision": "16-mixed", "accelerator": "gpu", "deterministic": True}
    assert same(run(tmp_path, mode, audit), run(tmp_path, mode))
    assert audit.latest.skipped is None


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (FSDPStrategy.__new__(FSDPStrategy), "FSDPStrategy: each process holds only a shard"),
        (
            ModelParallelStrategy.__new__(ModelParallelStrategy),
            "ModelParallelStrategy: each process holds only a shard",
        ),
        (type("DeepSpeedStrategy", (), {})(), "DeepSpeedStrategy: its engine does backward and step by itself"),
        (object(), "object: it is neither a single device nor DDP"),
    ],
)
def test_strategies_that_hide_the_gradient_are_refused_with_the_reason(strategy, reason):
    trainer = SimpleNamespace(strategy=strategy, optimizers=[torch.optim.SGD([nn.Parameter(torch.ones(1))], 1.0)])
    with pytest.raises(MisconfigurationException, match=reason):
        refuse_unsupported(trainer, nn.Module(), LeakageAudit().settings)


def test_no_optimiser_is_refused():
    trainer = SimpleNamespace(strategy=SingleDeviceStrategy("cpu"), optimizers=[])
    with pytest.raises(MisconfigurationException, match="configure_optimizers returned none"):
        refuse_unsupported(trainer, nn.Module(), LeakageAudit().settings)


def test_an_optimiser_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"optimizer=2\): no such optimiser; there are 2"):
        fit(tmp_path, LeakageAudit(attacks=[Grey()], limit=0, optimizer=2), module=Manual)


@pytest.mark.parametrize("setting", ["forward", "loss", "unpack"])
def test_a_name_that_leads_nowhere_is_refused_before_the_fit(tmp_path, setting):
    audit = LeakageAudit(attacks=[Grey()], limit=0, **{setting: "no.such"})
    with pytest.raises(MisconfigurationException, match=rf"{setting}='no\.such'\): .* is neither on the Lightning"):
        fit(tmp_path, audit)
    assert audit.count == 0


@pytest.mark.parametrize("given", [{"forward": "net"}, {"loss": "torch.nn.functional.cross_entropy"}])
def test_names_that_lead_somewhere_are_not(tmp_path, given):
    audit = LeakageAudit(attacks=[Grey()], limit=0, **given)
    fit(tmp_path, audit)
    assert audit.latest.skipped is None


def test_lbfgs_is_refused(tmp_path):
    class Second(Net):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(MisconfigurationException, match="L-BFGS: it evaluates several gradients within one step"):
        fit(tmp_path, LeakageAudit(attacks=[Grey()], limit=0), module=Second)
