"""`leakage-audit filter`: what somebody's filter of gradients lets through.

Nothing is known of the filter but what it does. It is taken for a factor and an error on each parameter, and for
entries that it puts to zero. Who attacks with knowledge of it has tried it on gradients of drawn images at the same
weights, and knows the factor and the size of the error from there. A filter that is random can be no better known than
that; one that is not may be invertible, so that its limit is "at least".
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from leakage_audit.compare.experiment import Experiment
from leakage_audit.compare.subjects import Subject, import_dotted
from leakage_audit.data import Synthetic
from leakage_audit.data.images import Images
from leakage_audit.defences.base import Composition, DefenceError, Mechanism, checked
from leakage_audit.defences.shared import Gradients, Shared
from leakage_audit.observation import Observation, observe
from leakage_audit.readings.evaluation import Evaluation, audit_status
from leakage_audit.readings.reading import Status, worst
from leakage_audit.sweep.point import attacked, limit_of

DRAWS = 3  # times that a filter is called on one gradient: two tell whether it is random
TRIED_ON = 4  # drawn images whose gradients an attacker has tried it on
EXACT = 1e-6  # relative error that is rounding


@dataclass(frozen=True)
class FilteredImage:
    """One image.

    Attributes:
        index: Its place in the data.
        limit_before: PSNR in dB that its gradient determines before the filter.
        limit: After it.
        solved: Whether that is known to the end; else it is at least this.
        attack: PSNR in dB of the best attack after the filter.
        attack_before: Before it.
        chance: What a guess scores.
        status: leaks, protected, open or unknown.
    """

    index: int
    limit_before: float | None
    limit: float | None
    solved: bool
    attack: float | None
    attack_before: float | None
    chance: float
    status: str


@dataclass(frozen=True)
class FilterReport:
    """What a filter does and what it lets through.

    Attributes:
        filter: Its dotted name.
        network: The network's.
        random: Whether it does not do the same every time.
        relative_error: How far what it shares is from the gradient, factors undone, as a share of its size.
        cosine: Between what it shares and the gradient.
        zeroed: Share of the entries that it puts to zero or does not share.
        status: Of the worst image.
        images: One by one.
    """

    filter: str
    network: str
    random: bool
    relative_error: float
    cosine: float
    zeroed: float
    status: str
    images: tuple[FilteredImage, ...]

    def table(self) -> Table:
        """For the terminal."""
        kind = "random" if self.random else "the same every time, so that its limit is at least this"
        found = Table(
            "image", "guess", "limit, bare", "limit, filtered", "attack, bare", "attack, filtered", "status",
            title=f"{self.filter} on {self.network}: {self.status}",
            caption=f"PSNR in dB. The filter is {kind}; {self.zeroed:.1%} of the entries are zero, cosine "
            f"{self.cosine:.3f} with the gradient, relative error {self.relative_error:.3g}.",
        )  # fmt: skip
        for one in self.images:
            at_least = "" if one.solved else "≥ "
            found.add_row(
                str(one.index), f"{one.chance:.1f}", _decibels(one.limit_before), at_least + _decibels(one.limit),
                _decibels(one.attack_before), _decibels(one.attack), one.status,
            )  # fmt: skip
        return found


def audit_filter(
    function: str,
    data: Images,
    network: str,
    indices: Sequence[int],
    attack_names: Sequence[str] = ("joint",),
    *,
    num_classes: int = 10,
    seed: int = 10,
    checkpoint: str | None = None,
    seconds: float | None = None,
    mean: float = 0.5,
) -> FilterReport:
    """Put single images' gradients through a filter and attack what is left.

    Args:
        function: Dotted name of the filter.
        data: Where the images come from.
        network: A variant's name or the dotted path of an importable network.
        indices: Of the training images.
        attack_names: As `leakage_audit.attacks.build` takes them.
        num_classes: Of a variant.
        seed: Of the weights.
        checkpoint: Trained weights.
        seconds: Time limit of each attack, by both attackers together, and of each limit.
        mean: Subtracted from the images.

    Raises:
        ValueError: If the filter cannot be used.
    """
    use = Filter(function)
    subject = Subject(network, num_classes, data.image_size, seed, Path(checkpoint) if checkpoint else None)
    model = subject.build()
    with torch.inference_mode(False), torch.enable_grad():
        drawn = [Synthetic(image_size=data.image_size).image_at(i) for i in range(TRIED_ON)]
        tried = [observe(model, one.image, one.label % num_classes, mean=mean).gradients for one in drawn]
        known = _described([(g, [use(g) for _ in range(DRAWS)]) for g in tried])
        rows, summary = [], []
        for index in indices:
            image, label, _ = data.image_at(index)
            seen = observe(model, image, label % num_classes, mean=mean)
            draws = [use(seen.gradients) for _ in range(DRAWS)]
            random = any(not torch.equal(draws[0][k], other[k]) for other in draws[1:] for k in draws[0])
            shared = known.on(draws[0])
            truly = _described([(seen.gradients, draws)]).on(draws[0])
            summary.append(
                (
                    random,
                    truly.relative_error(seen.gradients),
                    _cosine(draws[0], seen.gradients),
                    _zeroed(draws[0], seen.gradients),
                )
            )
            rows.append(
                _image(index, seen, shared, truly, image, label % num_classes, random, data, attack_names, seconds)
            )
    randoms, error, cosine, zeroed = (list(column) for column in zip(*summary, strict=True))
    count = len(rows)
    return FilterReport(
        function, network, any(randoms), sum(error) / count, sum(cosine) / count, sum(zeroed) / count,
        str(worst([Status(row.status) for row in rows])), tuple(rows),
    )  # fmt: skip


def _image(
    index: int, seen: Observation, shared: Shared, truly: Shared, image: Tensor, label: int, random: bool, data: Images,
    names: Sequence[str], seconds: float | None,
) -> FilteredImage:  # fmt: skip
    truth, labels, guess = image[None], torch.tensor([label]), data.mean_image(Experiment.guessed_from)
    bare = limit_of(seen, truth, labels, seconds)
    limit = limit_of(truly.seen_by(seen, knows=True), truth, labels, seconds)
    if limit is not None and not random and truly.relative_error(seen.gradients) > EXACT:
        limit = replace(limit, solved=False)
    before = attacked([seen], truth, labels, bare, names, guess, seconds)
    after = attacked(shared.attackers(seen), truth, labels, limit, names, guess, seconds)
    return FilteredImage(
        index, None if bare is None else bare.psnr[0], None if limit is None else limit.psnr[0],
        limit is not None and limit.solved, _best(after), _best(before), after.floor.psnr[0],
        str(audit_status([after])),
    )  # fmt: skip


def _best(found: Evaluation) -> float | None:
    return max((outcome.scores.psnr[0] for outcome in found.outcomes.values()), default=None)


class Filter:
    """A filter by its dotted name, called with gradients by name, or as a list where it takes no mapping.

    Args:
        name: Of a function, an object, or a class that is made without arguments.

    Raises:
        ValueError: If there is no such thing.
    """

    def __init__(self, name: str) -> None:
        found = import_dotted(name)
        try:
            made = found() if isinstance(found, type) else found
        except TypeError as error:
            raise ValueError(f"{name} cannot be made without arguments: {error}") from error
        self._call: Callable[[Any], Any] = _drawn_anew(made) if isinstance(made, Mechanism) else made
        self._name = name

    def __call__(self, gradients: Gradients) -> dict[str, Tensor]:
        """The filtered gradients, by name.

        Raises:
            DefenceError: If it fails, changes shapes, or returns what is not finite.
        """
        names, given = list(gradients), {k: g.clone() for k, g in gradients.items()}
        try:
            found = self._call(given)
        except Exception as first:  # it may want a list: whatever it raises at a mapping
            try:
                found = self._call([g.clone() for g in gradients.values()])
            except Exception as error:
                raise DefenceError(
                    f"{self._name} takes neither gradients by name ({type(first).__name__}: {first}) nor a list of "
                    f"them ({type(error).__name__}: {error})"
                ) from error
        if isinstance(found, list | tuple):
            if len(found) != len(names):
                raise DefenceError(f"{self._name} returns {len(found)} gradients of {len(names)}")
            found = dict(zip(names, found, strict=True))
        return checked(self._name, gradients, found)


def _drawn_anew(mechanism: Mechanism) -> Callable[[Gradients], Gradients]:
    """One of this package's mechanisms as a filter, with other random numbers at each call."""
    draws = itertools.count()
    return lambda gradients: Composition([mechanism]).share(gradients, next(draws)).gradients


@dataclass(frozen=True)
class _Description:
    """A factor and errors for each parameter, as shares of the root mean square of what comes out.

    Attributes:
        scale: The factor.
        error: Of entries that come out.
        hidden: Of entries that are put to zero.
    """

    scale: dict[str, float]
    error: dict[str, float]
    hidden: dict[str, float]

    def on(self, filtered: Gradients) -> Shared:
        """What is known of a filtered gradient."""
        error = {}
        for k, g in filtered.items():
            size = float(g.double().square().mean().sqrt())
            error[k] = torch.where(g == 0, self.hidden[k] * size, self.error[k] * size).to(g)
        return Shared(dict(filtered), {k: self.scale[k] for k in filtered}, error)


def _described(tries: Sequence[tuple[Gradients, Sequence[Gradients]]]) -> _Description:
    """Least squares of what came out on what went in, over entries that are not put to zero."""
    scale, error, hidden = {}, {}, {}
    for name in tries[0][1][0]:
        pairs = [(g[name].double(), out[name].double()) for g, outs in tries for out in outs]
        kept = [(g[out != 0], out[out != 0]) for g, out in pairs]
        power = sum(float(g @ g) for g, _ in kept)
        factor = sum(float(g @ out) for g, out in kept) / power if power > 0 else 1.0
        scale[name] = factor if factor != 0 else 1.0
        size = sum(float(out.square().mean()) for _, out in pairs) / len(pairs)
        size = size if size > 0 else sum(float(g.square().mean()) for g, _ in pairs) / len(pairs) or 1.0
        error[name] = _mean_square([out - scale[name] * g for g, out in kept], size)
        hidden[name] = _mean_square([scale[name] * g[out == 0] for g, out in pairs], size)
    return _Description(scale, error, hidden)


def _mean_square(parts: Sequence[Tensor], size: float) -> float:
    """Root mean square of all of them, as a share of the root of `size`."""
    count = sum(len(part) for part in parts)
    return (sum(float(part.square().sum()) for part in parts) / count / size) ** 0.5 if count else 0.0


def _cosine(filtered: Gradients, before: Gradients) -> float:
    a, b = (torch.cat([x[k].flatten().double() for k in filtered]) for x in (filtered, before))
    return float(torch.nn.functional.cosine_similarity(a, b, 0))


def _zeroed(filtered: Gradients, before: Gradients) -> float:
    total = sum(g.numel() for g in before.values())
    return 1 - sum(int((filtered[k] != 0).sum()) for k in filtered) / total


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
