"""GradientDefence: clip the gradient and add noise before it is used, and so before it would be shared."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from leakage_audit.callbacks.capture.gradient_check import loss_scale


class GradientDefence(Callback):
    """What a client may do to a gradient before it shares it: clip it as a whole, then add Gaussian noise.

    `g ← g · min(1, clip/‖g‖) + noise · clip · N(0, I)`, over all parameters of an optimiser together, at every step
    before the optimiser uses it. A `LeakageAudit` before it in the list of callbacks audits the defended gradient: in
    `step` exactly the one that the optimiser gets (of a full window of accumulation), in `sample` that of single
    images, defended likewise.

    This is *not* differentially private training: DP-SGD clips every image's own gradient before averaging. With batch
    size 1 the two coincide. Lightning's `gradient_clip_val` acts after this callback.

    The noise comes from a generator of its own, seeded anew at each step, so that it can be drawn again.

    Args:
        clip: Highest norm of the gradient; None does not clip, and then noise is in units of 1.
        noise: Standard deviation of the noise, in units of `clip`.
        seed: Of the noise.

    Raises:
        ValueError: If a number is out of its range, or nothing is done to the gradient.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), GradientDefence(clip=1.0, noise=1e-3)])
    """

    def __init__(self, clip: float | None = 1.0, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {noise}")
        if clip is None and noise == 0:
            raise ValueError("a defence must clip or add noise: give clip or noise")
        self.clip, self.noise, self.seed = clip, noise, seed
        self.steps = 0

    def defend(self, gradients: Mapping[str, Tensor], draw: int = 0) -> dict[str, Tensor]:
        """The gradients as they would be shared at this step.

        Args:
            gradients: By name; the noise depends on their order.
            draw: Which of the step's draws of noise; the optimiser gets draw 0.
        """
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        shrink = 1.0 if self.clip is None or norm <= self.clip else self.clip / norm
        sigma = self.noise * (1.0 if self.clip is None else self.clip)
        generator = torch.Generator().manual_seed(_mix(self.seed, self.steps, draw))
        return {
            name: g * shrink + sigma * torch.randn(g.shape, generator=generator).to(g) for name, g in gradients.items()
        }

    def noise_on(self, gradients: Mapping[str, Tensor]) -> float:
        """Standard deviation of the noise on these gradients, in their own units from before they were clipped."""
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
        shrink = 1.0 if self.clip is None or norm <= self.clip else self.clip / norm
        return self.noise * (1.0 if self.clip is None else self.clip) / shrink

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        parameters = {str(i): p for i, p in enumerate(_with_gradient(pl_module, optimizer))}
        # Fused optimisers undo the loss scaling of 16-mixed themselves, later: the noise must be scaled like the rest.
        scale = loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        shared = self.defend({name: p.grad / scale for name, p in parameters.items() if p.grad is not None})
        for name, gradient in shared.items():
            parameters[name].grad = gradient * scale
        self.steps += 1

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


def _mix(*numbers: int) -> int:
    """One seed of several; in 32 bits, since torch's generator for the CPU ignores all others."""
    return zlib.crc32(repr(numbers).encode())


def _with_gradient(module: LightningModule, optimizer: Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the module's order, as `snapshot.step_gradients` has them."""
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in module.parameters() if id(p) in mine and p.grad is not None]


def find_defence(trainer: Trainer, audit: Callback) -> GradientDefence | None:
    """The defence that an audit has to see through.

    Raises:
        ValueError: If there are several, or it comes before the audit, which then could not check what it reads.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if isinstance(callback, GradientDefence)]
    if len(found) > 1:
        raise ValueError(f"one GradientDefence at most can be audited, got {len(found)}")
    if found and callbacks.index(found[0]) < callbacks.index(audit):
        raise ValueError("GradientDefence must come after LeakageAudit in the list of callbacks")
    return found[0] if found else None
