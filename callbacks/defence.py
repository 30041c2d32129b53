"""GradientDefence: what is done to a gradient before it is used, and so before it would be shared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from leakage_audit.callbacks.capture.model_copy import plain, resolve
from leakage_audit.callbacks.capture.rng_isolation import isolated
from leakage_audit.callbacks.capture.sample_gradients import PerSample
from leakage_audit.callbacks.capture.set_aside import set_aside
from leakage_audit.callbacks.capture.step_gradients import (
    MicroBatch,
    Overflow,
    loss_scale,
    refuse_overflow,
    step_gradients,
)
from leakage_audit.defences import Clip, Composition, GaussianNoise, Mechanism, Shared


class GradientDefence(Callback):
    """What a client may do to a gradient before it shares it: mechanisms of `leakage_audit.defences`, one by one.

    They work on all parameters of an optimiser together, at every step before the optimiser uses the gradient. A
    `LeakageAudit` before it in the list of callbacks audits the defended gradient: in `step` exactly the one that the
    optimiser gets (of a full window of accumulation), in `sample` that of single images, defended likewise. Every
    attack is tried by an attacker who knows the defence and by one who does not; the stronger counts.

    Without `mechanisms` the gradient is clipped as a whole and Gaussian noise added,
    `g ← g · min(1, clip/‖g‖) + noise · clip · N(0, I)`. That is *not* differentially private training: DP-SGD clips
    every image's own gradient before averaging (`ClipPerSample`, or `PrivateTraining` for the whole of it). Lightning's
    `gradient_clip_val` acts after this callback.

    Random numbers come from a generator of its own, seeded anew at each step, so that they can be drawn again.

    Args:
        clip: Highest norm of the gradient; None does not clip, and then noise is in units of 1.
        noise: Standard deviation of the noise, in units of `clip`.
        seed: Of everything random.
        mechanisms: In place of clip and noise, in the order in which they are written: mechanisms, or any callables
            from gradients by name to gradients by name, or dotted names of such.
        forward: For `ClipPerSample`, which has to run the module: as in `LeakageAudit`.
        loss: Likewise.
        unpack: Likewise.

    Raises:
        ValueError: If a number is out of its range, or nothing is done to the gradient.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), GradientDefence(clip=1.0, noise=1e-3)])
        L.Trainer(callbacks=[LeakageAudit(), GradientDefence(mechanisms=[Prune(0.1), Quantize(8)])])
    """

    def __init__(
        self,
        clip: float | None = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        mechanisms: Sequence[str | Mechanism | Callable[..., Any]] | None = None,
        forward: str | Callable[..., Any] | None = None,
        loss: str | Callable[..., Any] | None = None,
        unpack: str | Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.clip, self.noise, self.seed = clip, noise, seed
        if mechanisms is None:
            both: list[Mechanism] = [] if clip is None else [Clip(clip)]
            added = GaussianNoise(noise * (1.0 if clip is None else clip))
            self.composition = Composition([*both, added] if added.std > 0 else both, seed)
            if not self.composition.mechanisms:
                raise ValueError("a defence must clip or add noise: give clip or noise")
        else:
            if noise or clip not in (1.0, None):
                raise ValueError(
                    "clip and noise are in place of mechanisms: write them among these, Clip and GaussianNoise"
                )
            self.composition = Composition([resolve(x) if isinstance(x, str) else x for x in mechanisms], seed)
            if not mechanisms:
                raise ValueError("mechanisms must name at least one")
        self.steps = 0
        self._settings = {"clip": clip, "noise": noise, "seed": seed} if mechanisms is None else {"seed": seed}
        self._per_sample = PerSample(forward, loss, unpack) if self.composition.needs_samples else None
        self._window: list[MicroBatch] = []
        self._shared: Shared | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What is done, as a record holds it."""
        return self._settings | {"mechanisms": self.composition.settings}

    @property
    def mu(self) -> float | None:
        """How well one step's noise lets an image's presence be told (docs/method/defences.md); None: no promise."""
        return None

    def defend(self, gradients: Mapping[str, Tensor], draw: int = 0) -> dict[str, Tensor]:
        """The gradients as they would be shared at this step.

        Args:
            gradients: By name, of one image or averaged; the noise depends on their order.
            draw: Which of the step's draws of noise; the optimiser gets draw 0.
        """
        return self.share(gradients, draw).gradients

    def share(self, gradients: Mapping[str, Tensor], draw: int = 0) -> Shared:
        """The same, with what may be known of each entry."""
        return self.composition.share(gradients, self.steps, draw)

    def share_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> Shared:
        """What this optimiser is about to get at this step, computed once.

        Raises:
            MisconfigurationException: If each image's own gradient is needed and the step is not understood.
            Overflow: If there will be no step.
        """
        if self._shared is None:
            own = step_gradients(trainer, module, optimizer)
            refuse_overflow(trainer, own)
            if self._per_sample is None:
                self._shared = self.share(own)
            else:
                with isolated(), set_aside(module, *self._per_sample.given):
                    samples = self._per_sample(trainer, module, optimizer, self._window)
                self._shared = self.composition.share_samples(samples, self.steps, 0)
        return self._shared

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._per_sample is not None and trainer.world_size > 1:
            raise MisconfigurationException("ClipPerSample works on one process; train with devices=1")

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._per_sample is not None:
            with isolated():
                self._window.append(self._per_sample.remember(trainer, pl_module, batch, batch_idx, not self._window))

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        try:
            shared = self.share_step(trainer, pl_module, optimizer)
        except Overflow:  # the scaler has to see it, and halves its scale
            self._forget()
            return
        # Fused optimisers undo the loss scaling of 16-mixed themselves, later: the noise must be scaled like the rest.
        scale = loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, p in pl_module.named_parameters():
            if id(p) in mine and p.grad is not None:
                found = shared.gradients.get(plain(name))
                p.grad = found if found is None or scale == 1.0 else found * scale
        self.steps += 1
        self._forget()

    def _forget(self) -> None:
        """Let go of the step."""
        self._window, self._shared = [], None
        if self._per_sample is not None:
            self._per_sample.forget()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]
