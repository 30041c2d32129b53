"""PrivateTraining: any LightningModule trained with DP-SGD by Opacus, its budget logged and bounded."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from typing_extensions import override

from leakage_audit.callbacks.capture.model_copy import plain
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.output import loggers
from leakage_audit.defences import ClipPerSample, GaussianNoise, Shared
from leakage_audit.defences.dp_sgd import DPSGD, Accounting, noise_multiplier_for, opacus, refuse_unsupported
from leakage_audit.measures.reconstruction_robustness import mu_of_dp_sgd
from leakage_audit.readings.metric_table import EPSILON


class PrivateTraining(GradientDefence):
    """Train with differential privacy: DP-SGD by Opacus, without a change to the LightningModule.

    At the start of the fit the training data loader is replaced by one with Poisson sampling, the optimiser by Opacus'
    (each image's gradient clipped, Gaussian noise on their sum), and hooks take per-sample gradients. ε is that of
    Opacus' own accountant; it is logged as `audit/epsilon` and stands in `trainer.callback_metrics` after every step. A
    `LeakageAudit` before it audits what is really shared: in `step` the clipped, noised sum that the optimiser gets, in
    `sample` one image's clipped gradient with the noise of the sum, what an attacker is left with who knows the batch's
    other images. `LeakageGate({"audit/epsilon": 8.0}, action="stop")` ends the fit before the budget is exceeded.

    Needs the extra `dp` (Opacus), one process, one optimiser, automatic optimisation, no accumulation. Batches are of
    varying size; keep them large enough (16 or more) that an empty one is no matter.

    Args:
        noise_multiplier: Standard deviation of the noise over `max_grad_norm`; None finds the one with which the fit
            spends `target_epsilon`.
        max_grad_norm: Highest norm of one image's gradient.
        target_epsilon: ε of the whole fit, where no noise multiplier is given; the trainer must know how many steps
            there will be.
        delta: δ; None is one over the number of training images.
        accountant: `rdp`, `prv` or `gdp`, as Opacus names them.
        seed: Of the noise and of the sampling.

    Raises:
        ValueError: If a number is out of its range, or not exactly one of noise multiplier and target is given.
        OpacusMissing: If Opacus is not installed.

    Example::

        L.Trainer(callbacks=[LeakageAudit(gradient="step"), PrivateTraining(noise_multiplier=1.0, max_grad_norm=1.0)])
    """

    def __init__(
        self,
        noise_multiplier: float | None = None,
        max_grad_norm: float = 1.0,
        target_epsilon: float | None = None,
        delta: float | None = None,
        accountant: str = "rdp",
        seed: int = 0,
    ) -> None:
        if (noise_multiplier is None) == (target_epsilon is None):
            raise ValueError("give either noise_multiplier or target_epsilon")
        for name, value in (("noise_multiplier", noise_multiplier), ("target_epsilon", target_epsilon)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if delta is not None and not 0 < delta < 1:
            raise ValueError(f"delta must lie between 0 and 1, got {delta}")
        if accountant not in ("rdp", "prv", "gdp"):
            raise ValueError(f"accountant must be one of rdp, prv, gdp, got {accountant!r}")
        opacus()
        super().__init__(seed=seed, mechanisms=[ClipPerSample(max_grad_norm)])
        self._per_sample = None  # Opacus takes the gradients
        self.noise_multiplier, self.max_grad_norm = noise_multiplier, max_grad_norm
        self.target_epsilon, self.delta, self.accountant = target_epsilon, delta, accountant
        self.accounting: Accounting | None = None
        self.batch_size = 0.0
        self._private: DPSGD | None = None
        self._generator_state: Any = None

    @property
    def epsilon(self) -> float:
        """ε spent so far."""
        return self.epsilon_after(0)

    def epsilon_after(self, steps: int) -> float:
        """ε after so many more steps; 0 before the fit."""
        return 0.0 if self.accounting is None else self.accounting.epsilon(self.steps + steps)

    @property
    @override
    def mu(self) -> float | None:
        return None if self.noise_multiplier is None else mu_of_dp_sgd(self.noise_multiplier)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        names = ("noise_multiplier", "max_grad_norm", "target_epsilon", "accountant", "seed", "batch_size")
        found = {name: getattr(self, name) for name in names}
        if self.accounting is not None:
            found |= {
                "delta": self.accounting.delta,
                "sample_rate": self.accounting.sample_rate,
                "epsilon": self.epsilon,
            }
        return {"dp_sgd": found}

    @override
    def share_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> Shared:
        assert self._private is not None  # since the fit began
        return self._private.shared({plain(name): p for name, p in module.named_parameters()})

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._refuse(trainer, pl_module)
        from opacus.data_loader import DPDataLoader

        source = trainer.fit_loop._data_source
        sampling = torch.Generator().manual_seed(self.seed + 1)
        loader = DPDataLoader.from_data_loader(source.dataloader(), generator=sampling)
        source.instance, source.name = loader, ""
        images = len(loader.dataset)
        self.batch_size = images * loader.sample_rate
        delta = self.delta or 1 / images
        steps = trainer.max_steps if trainer.max_steps > 0 else (trainer.max_epochs or 0) * len(loader)
        if self.noise_multiplier is None:
            if steps <= 0 or self.target_epsilon is None:
                raise MisconfigurationException("target_epsilon needs a trainer that knows its max_steps or max_epochs")
            self.noise_multiplier = noise_multiplier_for(
                self.target_epsilon, delta, loader.sample_rate, steps, self.accountant
            )
        self.accounting = Accounting(self.noise_multiplier, loader.sample_rate, delta, self.accountant)
        self._private = DPSGD(
            pl_module, trainer.optimizers[0], self.noise_multiplier, self.max_grad_norm, self.batch_size, self.seed
        )
        if self._generator_state is not None:
            self._private.generator.set_state(self._generator_state)
        trainer.strategy.optimizers = [self._private.optimizer]
        # One image's view: its clipped gradient under the noise of the sum.
        self.composition.mechanisms[1:] = [GaussianNoise(self.noise_multiplier * self.max_grad_norm)]

    def _refuse(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse what would train without the promise.

        Raises:
            MisconfigurationException: With the reason.
        """
        problem = ""
        if trainer.world_size > 1:
            problem = "it works on one process: devices=1"
        elif not module.automatic_optimization or len(trainer.optimizers) != 1:
            problem = "it needs automatic optimisation with one optimiser"
        elif trainer.accumulate_grad_batches != 1:
            problem = "accumulated batches are no Poisson samples: accumulate_grad_batches=1, and a larger batch size"
        elif getattr(trainer.precision_plugin, "scaler", None) is not None:
            problem = "a scaled loss has scaled per-sample gradients: use bf16-mixed or 32-true in place of 16-mixed"
        elif trainer.gradient_clip_val:
            problem = "gradients are clipped image by image: leave gradient_clip_val out"
        if problem:
            raise MisconfigurationException(f"PrivateTraining: {problem}")
        try:
            refuse_unsupported(module)
        except ValueError as error:
            raise MisconfigurationException(f"PrivateTraining: {error}") from error

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.steps += 1  # Opacus' optimiser does the rest, in its step

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        spent = {EPSILON.name: self.epsilon}
        loggers.remember(trainer, spent)
        if trainer.is_global_zero and trainer._logger_connector.should_update_logs:
            loggers.log_scalars(trainer, spent, loggers.log_step(trainer))

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._private is not None:
            self._generator_state = self._private.generator.get_state()
            self._private.close()
            self._private = None

    @override
    def state_dict(self) -> dict[str, Any]:
        generator = self._generator_state if self._private is None else self._private.generator.get_state()
        return {"steps": self.steps, "noise_multiplier": self.noise_multiplier, "generator": generator}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.noise_multiplier = state_dict["steps"], state_dict["noise_multiplier"]
        self._generator_state = state_dict["generator"]


def private_training_of(trainer: Trainer) -> PrivateTraining | None:
    """The one among a trainer's callbacks, if there is one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, PrivateTraining)), None)
