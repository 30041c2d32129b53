"""R-GAP (Zhu & Blaschko 2021): solve every layer's system by its pseudo-inverse, and nothing else."""

import torch

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.ending import EndingOptions
from leakage_audit.layerwise.factorization import TOLERANCE, Factor
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.layerwise.recursion import sweep
from leakage_audit.networks.chain import read_chain
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.runtime import Budget


class RGAP(Attack):
    """Recursive gradient attack: `x⁽ⁱ⁾ = u⁽ⁱ⁾⁺ v⁽ⁱ⁾`, layer by layer (Zhu & Blaschko, ICLR 2021).

    Exact where every system has full rank. It takes one image: a gradient that averages several is read as if it were
    one's. It does not iterate, so it always converges.

    Args:
        tolerance: Singular values below this share of the largest count as zero; float32 gradients leave 1e-7.
        factor: How the systems are factored.
        ending: When it has succeeded.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> found = RGAP()(observe(models.build("cnn2_v1", image_size=12), torch.rand(3, 12, 12), 3))
        >>> found.succeeded, found.ended
        (True, "every layer's system determines its input")

    Raises:
        ValueError: If the tolerance is not in (0, 1).
    """

    name = "rgap"

    def __init__(
        self,
        tolerance: float = TOLERANCE,
        factor: FactorOptions | None = None,
        ending: EndingOptions | None = None,
    ) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
        self.tolerance, self.factor, self.ending = tolerance, factor or FactorOptions(), ending or EndingOptions()

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Walk back; the residual is the worst layer's ‖u x − v‖/‖v‖."""
        with in_double_precision(seen, budget) as exact:
            return self._walked_back(exact, budget)

    def _walked_back(self, seen: Observation, budget: Budget) -> Found:
        chain = read_chain(seen.network, seen.input_shape)
        ranks: dict[str, tuple[int, int]] = {}
        residuals: list[float] = []

        def solve(system: LayerSystem, i: int) -> torch.Tensor:
            factor = Factor(system, self.tolerance, self.factor, budget)
            x = factor.pseudo_inverse(system.v)
            ranks[system.layer.name] = factor.rank, system.n
            residuals.append(float((system.apply(x) - system.v).norm() / system.v.norm()))
            return x

        x = sweep(chain, seen, solve).x
        short = {name: rank - n for name, (rank, n) in reversed(ranks.items()) if rank < n}
        ended = (
            "every layer's system determines its input"
            if not short
            else "least-norm guess where the system falls short: "
            + ", ".join(f"{name} by {-deficiency}" for name, deficiency in short.items())
        )
        if seen.batch_size > 1:
            ended += f"; the gradient averages {seen.batch_size} images and was read as one's"
        residual = max(residuals, default=0.0)
        return Found(x, True, ended, residual, {"deficiency": short})
