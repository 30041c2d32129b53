"""The mechanisms that a sweep knows by a name and one number, the strength; anybody's own by a dotted name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leakage_audit.compare.subjects import import_dotted
from leakage_audit.defences import (
    Clip,
    ClipPerSample,
    GaussianNoise,
    LaplaceNoise,
    PartialSharing,
    PercentileFilter,
    Prune,
    Quantize,
    Sign,
    SparseVector,
)

NONE, DP_SGD = "none", "dp_sgd"
BOUND = 1.0  # clipping norm of everything that clips, so that strengths are in its units


@dataclass(frozen=True)
class Known:
    """A mechanism by name.

    Attributes:
        strength: What the number is.
        build: Mechanisms of that strength, given the parameters' names.
    """

    strength: str
    build: Callable[[float, Sequence[str]], list[Any]]


def _partial(layers: float, names: Sequence[str]) -> list[Any]:
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    if not 1 <= layers <= len(modules):
        raise ValueError(f"partial shares the last 1 to {len(modules)} layers, got {layers:g}")
    return [PartialSharing([f"{module}.*" for module in modules[-int(layers) :]])]


def _laplace(std: float) -> LaplaceNoise:
    try:
        return LaplaceNoise(std / 2**0.5)
    except ValueError:  # in the number that was given, not in the scale that is made of it
        raise ValueError(f"noise must be at least 0 and finite, got {std:g}") from None


MECHANISMS: dict[str, Known] = {
    NONE: Known("", lambda s, names: []),
    "clip": Known("highest norm of each parameter's gradient", lambda s, names: [Clip(s, "layer")]),
    "gaussian": Known(
        "standard deviation over the clipping norm", lambda s, names: [Clip(BOUND), GaussianNoise(s * BOUND)]
    ),
    "laplace": Known("standard deviation over the clipping norm", lambda s, names: [Clip(BOUND), _laplace(s * BOUND)]),
    "prune": Known("share of the entries that is kept", lambda s, names: [Prune(s)]),
    "percentile": Known("percentile below which entries are zero", lambda s, names: [PercentileFilter(s)]),
    "svt": Known("share of the entries that is sent", lambda s, names: [SparseVector(s)]),
    "sign": Known("1: signs and mean magnitudes", lambda s, names: [Sign()]),
    "quantize": Known("bits an entry", lambda s, names: [Quantize(int(s) if s == int(s) else s)]),  # type: ignore[arg-type]
    "partial": Known("how many layers, the last first", _partial),
    DP_SGD: Known("ε of the whole training", lambda s, names: [ClipPerSample(BOUND)]),
}


def mechanisms_of(name: str, strength: float, parameters: Sequence[str]) -> list[Any]:
    """The mechanisms of a point; of DP-SGD without its noise, which depends on the training.

    Args:
        name: Of the table, or a dotted name that makes a mechanism from its strength.
        strength: The number.
        parameters: The network's parameters, in order.

    Raises:
        ValueError: If there is no such mechanism, or its strength is out of range.

    >>> mechanisms_of("prune", 0.1, [])[0].share
    0.1
    """
    if name in MECHANISMS:
        known = MECHANISMS[name]
        try:
            return known.build(strength, parameters)
        except ValueError as error:
            raise ValueError(f"{name} at strength {strength:g} ({known.strength}): {error}") from error
    if "." not in name:
        raise ValueError(f"unknown mechanism {name!r}; there are {', '.join(MECHANISMS)}, or a dotted name of your own")
    try:
        return [import_dotted(name)(strength)]
    except TypeError as error:
        raise ValueError(f"{name} is not made from a strength: {error}") from error
