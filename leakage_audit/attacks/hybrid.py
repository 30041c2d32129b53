"""Hybrid (Chen & Campbell 2022): each layer's linear system, corrected by gradient matching."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.attacks.corrections import Correct, Problem, Terms, constrained, penalty, trust_region
from leakage_audit.attacks.ending import EndingOptions
from leakage_audit.layerwise.factorization import TOLERANCE, Factor
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.layerwise.recursion import sweep
from leakage_audit.matching.objective import cosine_distance
from leakage_audit.matching.subnetwork import Subnetwork
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import SpatialLayer
from leakage_audit.observation import Observation, in_double_precision
from leakage_audit.runtime import Budget

# The paper's Table 2, from the layer nearest the image on; the last row serves all deeper layers.
TABLE_2 = (Terms(10000, 1.0, 1.0, 0.05), Terms(8000, 1.0, 1.0, 0.1), Terms(1000, 10.0, 0.1, 1.0))
PRESETS: dict[str, Correct] = {"penalty": penalty, "constrained": constrained, "trust_region": trust_region}


class Hybrid(Attack):
    """The paper's attack: solve a layer's system, then move to match the gradients of this layer and those above.

    Args:
        preset: What becomes of the linear system: `penalty` (16), the form behind the paper's results, with Table 2's
            weights; `constrained` (11), on the solution set exactly, by Adam projected on the null space;
            `trust_region`, the same by scipy's trust-region solver, for small layers.
        scale: Multiplies Table 2's iterations (10000 for the layer nearest the image, 8000, then 1000).
        lr: Adam's step size.
        tolerance: Singular values below this share of the largest count as zero; float32 gradients leave 1e-7.
        ending: When a layer's objective has settled.
        largest_null_space: Unknowns of a layer up to which `trust_region` forms a basis of its null space.
        kink: Rounding of the variation's kinks for `trust_region`, in units of the layer's input.
        terms: In place of Table 2, iterations and weights from the layer nearest the image on; the last row serves all
            deeper layers.
        factor: How the systems are factored.

    Example:
        >>> import torch
        >>> from leakage_audit import models, observe
        >>> seen = observe(models.build("cnn2_v2", image_size=12), torch.rand(3, 12, 12), 3)
        >>> Hybrid(scale=0.001)(seen).images.shape
        torch.Size([1, 3, 12, 12])

    Raises:
        ValueError: If there is no such preset, a number is not positive, or there are no terms.
    """

    name: ClassVar[str] = "hybrid"
    choice = "preset"

    def __init__(
        self,
        preset: str = "penalty",
        scale: float = 1.0,
        lr: float = 1e-3,
        tolerance: float = TOLERANCE,
        ending: EndingOptions | None = None,
        largest_null_space: int = 2000,
        kink: float = 1e-2,
        terms: Sequence[Terms] | None = None,
        factor: FactorOptions | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        if not scale > 0 or not lr > 0:
            raise ValueError(f"scale and lr must be positive, got {scale} and {lr}")
        self.preset, self.scale, self.lr = preset, scale, lr
        self.tolerance, self.ending = tolerance, ending or EndingOptions()
        self.largest_null_space, self.kink = largest_null_space, kink
        self.terms, self.factor = TABLE_2 if terms is None else tuple(terms), factor or FactorOptions()
        if not self.terms:
            raise ValueError("terms must have a row at least, which serves all layers")

    def reconstruct(self, seen: Observation, budget: Budget) -> Found:
        """Walk back, correcting each layer; the residual is the cosine distance of all gradients at the end."""
        with in_double_precision(seen, budget) as exact:  # for networks of this size no slower than float32
            return self._walked_back(exact, budget)

    def _walked_back(self, seen: Observation, budget: Budget) -> Found:
        chain = read_chain(seen.network, seen.input_shape)
        labels, inferred = labels_for(seen)
        labels = labels[:1]  # a gradient that averages several images is read as if it were one's
        convolutions = [i for i, layer in enumerate(chain) if isinstance(layer, SpatialLayer)]

        settled: list[bool] = []

        def solve(system: LayerSystem, i: int) -> Tensor:
            factor = Factor(system, self.tolerance, self.factor, budget)
            start = factor.pseudo_inverse(system.v)
            row = self.terms[min(convolutions.index(i), len(self.terms) - 1)]
            terms = replace(row, iterations=max(1, round(row.iterations * self.scale)))
            tail, limits = Subnetwork(chain, i, seen, labels), (self.largest_null_space, self.kink)
            problem = Problem(system, factor, tail, terms, self.lr, budget, *limits, self.ending)
            found, done = PRESETS[self.preset](problem, start)
            settled.append(done)
            return found

        x = sweep(chain, seen, solve).x
        tail = Subnetwork(chain, 0, seen, labels)
        distance = cosine_distance(tail.gradients(x), tail.targets).item()
        ended = f"gradients at cosine distance {distance:.2g}"
        if budget.stopped:
            ended = f"out of time; {ended}"
        return Found(x, all(settled), ended, distance, {"labels": labels, "labels_inferred": inferred})
