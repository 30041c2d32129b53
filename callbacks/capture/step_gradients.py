"""The gradients that an optimiser step leaves to be audited, and the same from scratch.

`on_before_optimizer_step` is the one hook where the weights and the complete gradient at these weights are both
there: accumulated over the window, averaged over the ranks, not yet clipped (except by manual optimisation).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.model_copy import Classifier, plain
from leakage_audit.callbacks.capture.plain_training import PlainTraining
from leakage_audit.callbacks.capture.rng_isolation import RngState
from leakage_audit.observation import Loss


class Overflow(AuditSkipped):
    """The scaled loss of 16-mixed has overflowed: the scaler takes no step, and nothing is shared."""


@dataclass(frozen=True)
class MicroBatch:
    """One batch of the window that an optimiser step averages over.

    Attributes:
        batch: A clone, made when the batch began: the step may work on the batch's own memory.
        original: The training's own.
        index: Its number in the epoch.
        streams: The global generators when the batch began, from which dropout drew its masks.
    """

    batch: Any
    original: Any
    index: int
    streams: RngState


def step_gradients(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> dict[str, Tensor]:
    """The gradients that this optimiser is about to use, by plain parameter name, off the training's memory.

    Lightning has undone the loss scaling of 16-mixed by now, except for optimisers that do it themselves (fused ones):
    there it is undone here. Where Lightning leaves the backward pass out (in the epoch in which stochastic weight
    averaging recomputes batch statistics), what lies in `.grad` is an earlier step's, and there is none.
    """
    if getattr(getattr(trainer, "fit_loop", None), "_skip_backward", False):
        return {}
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    scale = loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
    return {
        plain(name): p.grad.detach().to_dense() / scale if scale != 1.0 else p.grad.detach().to_dense().clone()
        for name, p in module.named_parameters()
        if id(p) in mine and p.grad is not None
    }


def loss_scale(trainer: Trainer) -> float:
    """By how much the precision plugin scales the loss: 1 except in 16-mixed."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def refuse_overflow(trainer: Trainer, gradients: Mapping[str, Tensor]) -> None:
    """Raise where the gradient scaler will leave a step out, as it does at the start of most fits in 16-mixed.

    Raises:
        Overflow: If there is a scaler and a gradient is not finite. Without a scaler the step would be taken.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return
    if not all(bool(torch.isfinite(g).all()) for g in gradients.values()):
        raise Overflow("the scaled loss has overflowed: the gradient scaler takes no step, and nothing is shared")


def recompute(
    trainer: Trainer,
    classifier: Classifier,
    network: nn.Module,
    loss: Loss,
    window: Sequence[tuple[Tensor, Tensor, RngState]],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """The window's gradient from scratch: the mean over its batches of ∂ loss(network(images), targets).

    The network runs in the module's own modes, under the training's autocast, from the generators' states of then.
    Its buffers move along (batch normalisation): it is used up.

    Args:
        trainer: Says precision.
        classifier: Says what the network's parameters are called in the LightningModule.
        network: Of a copy that nothing has run on.
        loss: `loss(scores, targets)`, of the same copy.
        window: Images `(B, C, H, W)`, targets and generator states of each batch.
        names: The parameters' plain names in the LightningModule; those that the network lacks are left out.
    """
    own = {classifier.name_in_module(network, n): p for n, p in network.named_parameters() if p.requires_grad}
    wanted = {name: own[name] for name in names if name in own}
    total: dict[str, Tensor] = {}
    scale = loss_scale(trainer)
    for images, targets, streams in window:
        streams.restore()
        with trainer.precision_plugin.train_step_context():
            value = loss(network(images), targets)
        found = list(torch.autograd.grad(value * scale, list(wanted.values()), allow_unused=True))
        for name in reversed(wanted):
            gradient = found.pop()  # and let go of it: no second gradient is held but tensor by tensor
            if gradient is not None:
                part = gradient.to_dense() / (scale * len(window))
                total[name] = total[name] + part if name in total else part
    return {name: total[name] if name in total else torch.zeros_like(p) for name, p in wanted.items()}


def steps_by_itself(trainer: Any, module: Any) -> bool:
    """Whether a Trainer does backward and step, and divides by the window's full length, rather than the user."""
    return not isinstance(trainer, PlainTraining) and bool(module.automatic_optimization)
