"""DP-SGD by Opacus (the extra `dp`): its per-sample gradients, its optimiser, its accountants."""

import warnings
from functools import cached_property
from typing import Any

from torch import Generator, nn
from torch.optim import Optimizer

from leakage_audit.defences.base import mix
from leakage_audit.defences.opacus_optimizer import about_to_share
from leakage_audit.defences.shared import Shared


class OpacusMissing(ImportError):
    """Opacus is not installed; the message says how to install it."""


def opacus() -> Any:
    """The package.

    Raises:
        OpacusMissing: If it is not installed.
    """
    try:
        import opacus as found
    except ImportError as error:
        raise OpacusMissing(
            "differentially private training needs Opacus: pip install 'leakage-audit[dp]', or pip install opacus"
        ) from error
    return found


def refuse_unsupported(module: nn.Module) -> None:
    """Refuse what has no per-sample gradients.

    Raises:
        ValueError: With the layer's name and what takes its place.
    """
    for path, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            groups = next(g for g in (32, 16, 8, 4, 2, 1) if part.num_features % g == 0)
            raise ValueError(
                f"{path} ({type(part).__name__}) normalises each image by its whole batch, so that no image's "
                f"influence can be bounded: replace it by torch.nn.GroupNorm({groups}, {part.num_features}) before "
                "training, or all of them at once by opacus.validators.ModuleValidator.fix(model)"
            )
    opacus()
    from opacus.validators import ModuleValidator

    problems = ModuleValidator.validate(module, strict=False)
    if problems:
        raise ValueError(f"Opacus cannot train this module: {'; '.join(map(str, problems))}")


class Accounting:
    """The budget that steps of DP-SGD spend, by Opacus' accountant.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping bound.
        sample_rate: Chance of an image to be in a batch (Poisson sampling).
        delta: δ of (ε, δ).
        accountant: `rdp`, `prv` or `gdp`, as Opacus names them.
    """

    def __init__(self, noise_multiplier: float, sample_rate: float, delta: float, accountant: str = "rdp") -> None:
        self.noise_multiplier, self.sample_rate = noise_multiplier, sample_rate
        self.delta, self.accountant = delta, accountant
        self._known: dict[int, float] = {0: 0.0}

    def epsilon(self, steps: int) -> float:
        """ε after so many steps."""
        if steps not in self._known:
            self._known[steps] = self._spent(steps)
        return self._known[steps]

    def _spent(self, steps: int) -> float:
        opacus()
        if self.accountant == "rdp":  # a step's divergences add up: worked out once, not at every step
            from opacus.accountants.analysis import rdp

            orders, one = self._divergences
            with warnings.catch_warnings():  # where the best order is the largest it tries, the bound is only loose
                warnings.filterwarnings("ignore", "Optimal order is")
                return float(rdp.get_privacy_spent(orders=orders, rdp=one * steps, delta=self.delta)[0])
        from opacus.accountants import create_accountant

        fresh = create_accountant(self.accountant)
        fresh.history = [(self.noise_multiplier, self.sample_rate, steps)]
        return float(fresh.get_epsilon(delta=self.delta))

    @cached_property
    def _divergences(self) -> tuple[Any, Any]:
        from opacus.accountants.analysis import rdp
        from opacus.accountants.rdp import RDPAccountant

        orders = RDPAccountant.DEFAULT_ALPHAS
        one = rdp.compute_rdp(q=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=1, orders=orders)
        return orders, one


def noise_multiplier_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str = "rdp"
) -> float:
    """The noise multiplier with which so many steps spend ε, by Opacus' search.

    Raises:
        ValueError: If ε is not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    opacus()
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():  # as above
        warnings.filterwarnings("ignore", "Optimal order is")
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon, target_delta=delta, sample_rate=sample_rate, steps=steps, accountant=accountant
            )
        )


class DPSGD:
    """A module and its optimiser under Opacus: per-sample gradients, and an optimiser that clips and noises them.

    Args:
        module: Left as it is but for hooks on its layers, which `close` takes away.
        optimizer: Of its parameters.
        noise_multiplier: Standard deviation of the noise over the clipping bound.
        bound: Highest norm of one image's gradient.
        batch_size: Expected number of images a step, by which sums are divided.
        seed: Of the noise.

    Attributes:
        optimizer: In place of the one that was given.

    Raises:
        ValueError: If a layer has no per-sample gradients, or a number is out of its range.
        OpacusMissing: If Opacus is not installed.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        noise_multiplier: float,
        bound: float,
        batch_size: float,
        seed: int,
    ) -> None:
        if not noise_multiplier > 0 or not bound > 0:
            raise ValueError(f"noise_multiplier and max_grad_norm must be positive, got {noise_multiplier} and {bound}")
        refuse_unsupported(module)
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        # Its hooks on a first layer, whose input needs no gradient, are not what this warns of.
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        self._wrapped = GradSampleModule(module)
        self.generator = Generator(device=next(module.parameters()).device).manual_seed(mix(seed))
        self.optimizer = DPOptimizer(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=bound, expected_batch_size=batch_size,
            generator=self.generator,
        )  # fmt: skip

    def shared(self, names: dict[str, nn.Parameter]) -> Shared:
        """What the next step will share; see `about_to_share`.

        Args:
            names: The parameters by name.

        Raises:
            ValueError: If the batch held no image.
        """
        return about_to_share(self.optimizer, names)

    def close(self) -> None:
        """Take the hooks off the module again."""
        self._wrapped.remove_hooks()
        for p in self._wrapped.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter"):
                if hasattr(p, name):
                    delattr(p, name)
