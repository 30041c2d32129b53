"""A user's own Opacus set-up (`PrivacyEngine.make_private`), seen through as `PrivateTraining` is."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from leakage_audit.callbacks.capture.model_copy import plain
from leakage_audit.callbacks.capture.step_gradients import loss_scale
from leakage_audit.callbacks.capture.supported_trainers import is_kind
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.output.loggers import log_step
from leakage_audit.defences import ClipPerSample, GaussianNoise, Shared
from leakage_audit.defences.opacus_optimizer import about_to_share
from leakage_audit.measures.reconstruction_robustness import mu_of_dp_sgd


class OwnOpacus(GradientDefence):
    """What an optimiser that Opacus made shares; it acts by itself, and this is no callback of the trainer.

    In `step` the audit sees the clipped, noised sum that the optimiser is about to use, in `sample` one image's clipped
    gradient with the noise of the sum, as with `PrivateTraining`.

    Args:
        trainer: Of the fit, for its count of steps.
        optimizer: The `DPOptimizer`.
    """

    def __init__(self, trainer: Any, optimizer: Any) -> None:
        bound, multiplier = optimizer.max_grad_norm, optimizer.noise_multiplier
        super().__init__(mechanisms=[ClipPerSample(bound), GaussianNoise(multiplier * bound)])
        self._per_sample = None  # Opacus takes the gradients
        self._trainer, self._optimizer = trainer, optimizer

    @property
    @override
    def mu(self) -> float | None:
        multiplier = self._optimizer.noise_multiplier
        return mu_of_dp_sgd(multiplier) if multiplier > 0 else None

    @property
    @override
    def settings(self) -> dict[str, Any]:
        names = ("noise_multiplier", "max_grad_norm", "expected_batch_size")
        return {"dp_sgd": {"made_by": "opacus"} | {name: getattr(self._optimizer, name) for name in names}}

    @override
    def share(self, gradients: Mapping[str, Tensor], draw: int = 0) -> Shared:
        self.steps = log_step(self._trainer)  # noise of its own at each
        return super().share(gradients, draw)

    @override
    def share_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> Shared:
        return about_to_share(self._optimizer, {plain(name): p for name, p in module.named_parameters()})


def opacus_of(trainer: Any, module: nn.Module, optimizer: Any) -> tuple[OwnOpacus | None, str]:
    """What a user's own Opacus set-up does to an optimiser's gradients, and what is wrong with it for an audit.

    Args:
        trainer: Of the fit.
        module: That is trained.
        optimizer: Whose steps are audited.

    Returns:
        The set-up as a defence, None where there is none to be seen through; and a sentence where Opacus is at work
        all the same, else an empty one.
    """
    if not is_kind(optimizer, "DPOptimizer"):
        wrapped = any(is_kind(part, "AbstractGradSampleModule") for part in module.modules())
        if wrapped or any(hasattr(p, "grad_sample") for p in module.parameters()):
            return None, (
                "Opacus takes per-sample gradients of the module, but the audited optimiser is not the one that "
                "make_private returned: its gradients are neither clipped nor noised, and are audited as they are"
            )
        return None, ""
    if is_kind(optimizer, "DistributedDPOptimizer"):
        problem = (
            "what its processes share is added up within its own step, where no audit sees it (before that each has a "
            "gradient of its own, not their mean, so that audits of the step are skipped)"
        )
    elif trainer.world_size > 1:
        problem = (
            "its processes know nothing of each other: each takes a step of its own, and their weights part, unless "
            "make_private is given a DifferentiallyPrivateDistributedDataParallel"
        )
    elif type(optimizer).__name__ != "DPOptimizer":
        problem = f"{type(optimizer).__name__} clips in another way than make_private's default"
    elif optimizer.loss_reduction != "mean":
        problem = "its loss_reduction is not 'mean'"
    elif optimizer.secure_mode:
        problem = "secure_mode draws noise that cannot be drawn again"
    elif loss_scale(trainer) != 1.0:
        problem = "a scaled loss has scaled per-sample gradients (bf16-mixed and 32-true have not)"
    else:
        return OwnOpacus(trainer, optimizer), ""
    return None, (
        f"Opacus is at work, but {problem}: audits see the gradients before they are clipped and noised, which leak "
        "more than what is shared; change that, or leave Opacus to PrivateTraining(noise_multiplier=…, max_grad_norm=…)"
    )
