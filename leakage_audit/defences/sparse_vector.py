"""The sparse-vector filter of federated frameworks (Dwork & Roth 2014, section 3.6; Li et al. 2019)."""

import math

import torch

from leakage_audit.defences.base import Mechanism
from leakage_audit.defences.noise import laplace
from leakage_audit.defences.shared import Shared, beyond, cut_off, hidden


class SparseVector(Mechanism):
    """Choose entries by a noisy threshold, share a fraction of them with Laplace noise, put all others to zero.

    Rounds of noisy comparisons accept entries until the fraction is reached; of the accepted ones that many are drawn
    with replacement, noised and cut off at ±γ. Defaults and noise scales are those of NVIDIA FLARE's `SVTPrivacy`:
    2γ/ε for the threshold, 4γ·n/ε₂ with ε₂ = ε·(2n)^⅔ for a comparison, 2γ/ε₃ for what is shared. Its release of 2022
    put to zero only what was never accepted: entries that were accepted and not drawn went out in clear.

    Args:
        fraction: Of the entries that is shared.
        epsilon: ε, of the threshold.
        epsilon_shared: ε₃, of the shared values (`noise_var` in FLARE, which is no variance: larger is less noise).
        gamma: γ, largest magnitude.
        tau: The threshold.
        clear_leftovers: Whether accepted entries that were not drawn go out as they are.

    Raises:
        ValueError: If a setting is out of its range.

    >>> shared = SparseVector(0.25)(Shared.of({"w": torch.rand(100)}), torch.Generator().manual_seed(0))
    >>> bool((shared.gradients["w"] != 0).sum() <= 25)
    True
    """

    is_noise = False

    def __init__(
        self,
        fraction: float = 0.1,
        epsilon: float = 0.1,
        epsilon_shared: float = 0.1,
        gamma: float = 1e-5,
        tau: float = 1e-6,
        clear_leftovers: bool = False,
    ) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        for name, value in (("epsilon", epsilon), ("epsilon_shared", epsilon_shared), ("gamma", gamma)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.fraction, self.epsilon, self.epsilon_shared = fraction, epsilon, epsilon_shared
        self.gamma, self.tau, self.clear_leftovers = gamma, tau, clear_leftovers

    def __call__(self, shared: Shared, generator: torch.Generator) -> Shared:
        """Filter."""
        sizes = [g.numel() for g in shared.gradients.values()]
        flat = torch.cat([g.flatten().double().cpu() for g in shared.gradients.values()])
        count = math.ceil(self.fraction * len(flat))
        accepted = self._accept(flat, count, generator)
        drawn = accepted.nonzero()[:, 0][torch.randint(int(accepted.sum()), (count,), generator=generator)].unique()
        scale = 2 * self.gamma / self.epsilon_shared
        noisy = flat[drawn] + scale * laplace(flat[drawn], generator)
        out = torch.where(accepted, flat, 0.0) if self.clear_leftovers else torch.zeros_like(flat)
        out[drawn] = noisy.clamp(-self.gamma, self.gamma)
        sent = torch.zeros_like(accepted).index_fill(0, drawn, True)
        told = accepted | sent if self.clear_leftovers else sent
        found, errors, shifts, intervals = {}, {}, {}, {}
        parts = zip(shared.gradients.items(), *(part.split(sizes) for part in (flat, out, sent, told)), strict=True)
        for (name, g), *values in parts:
            before, after, mine, known = (value.reshape(g.shape) for value in values)
            cut = mine & (after.abs() >= self.gamma)  # noised as it was and then cut off, so that its sign is left
            shift, spread = cut_off(before, after, cut)
            error = (mine & ~cut) * (math.sqrt(2) * scale) + spread + hidden(before, after, ~known)
            found[name], errors[name], shifts[name] = (value.to(g) for value in (after, error, shift))
            std = torch.hypot(shared.error[name], torch.full_like(g, math.sqrt(2) * scale))
            intervals[name] = beyond(g, found[name], cut.to(g.device), std)
        return shared.changed(found, errors, shifts, intervals)

    def _accept(self, flat: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        """Entries whose noisy magnitude was above the noisy threshold in one round or another."""
        threshold = self.tau + 2 * self.gamma / self.epsilon * laplace(flat[:1], generator)
        scale = 4 * self.gamma * count / (self.epsilon * (2 * count) ** (2 / 3))
        sizes = flat.abs().clamp(max=self.gamma)
        accepted = torch.zeros(len(flat), dtype=torch.bool)
        while int(accepted.sum()) < count:
            accepted |= sizes + scale * laplace(flat, generator) >= threshold
        return accepted
