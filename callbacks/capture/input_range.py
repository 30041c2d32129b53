"""How the network's inputs are made from images: normalisation and value range, given or found, and doubted."""

from collections.abc import Sequence

from lightning import Trainer
from torch import Tensor

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.normalisation import find_normalisation
from leakage_audit.callbacks.capture.own_copy import copy_data
from leakage_audit.callbacks.capture.rng_isolation import kept_generators
from leakage_audit.observation import as_tuple, per_channel


class InputRange:
    """The normalisation `input = (image − mean) / std` of images in a range of values.

    Args:
        mean: One for all channels or one each; None looks for it.
        std: Likewise.
        value_range: Lowest and highest value of an image before normalisation.

    Attributes:
        mean: Per channel; known once settled.
        std: Per channel.
        assumed: In a sentence, what was found.
        doubts: In sentences, what looks wrong with it.
    """

    def __init__(
        self,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._given = mean is not None or std is not None
        self.mean, self.std, self.value_range = _tuple(mean, 0.0), _tuple(std, 1.0), value_range
        self.assumed: list[str] = []
        self.doubts: list[str] = []
        self._beyond = False  # said

    def to_image(self, x: Tensor) -> Tensor:
        """Map inputs `(B, C, H, W)` to images, not clipped; whether they are images may become a doubt."""
        image = x * per_channel(self.std, x) + per_channel(self.mean, x)
        (low, high), least, most = self.value_range, float(image.min()), float(image.max())
        slack = 0.05 * (high - low)
        if (least < low - slack or most > high + slack) and not self._beyond:
            self._beyond = True
            self.doubts.append(
                f"images span {least:.2f} … {most:.2f} where {low:g} … {high:g} was expected: "
                "give the normalisation's mean and std, or value_range"
            )
        return image

    def settle(self, trainer: Trainer, x: Tensor) -> None:
        """With the first batch: look for what was not given, and hold it against the images.

        Args:
            trainer: Whose datamodule and data loader are looked through.
            x: Inputs `(B, C, H, W)`.

        Raises:
            AuditSkipped: If a normalisation was given that is not of these images.
        """
        if self.assumed:
            return
        source = "given"
        if not self._given:
            data, loader = getattr(trainer, "datamodule", None), trainer.train_dataloader
            with kept_generators(data, loader):  # a method may go through the data
                found, source, doubts = find_normalisation(copy_data(data, trainer), loader)
            if found is not None and any(len(values) not in (1, x.shape[1]) for values in found):
                doubts.append(
                    f"{source} has {max(map(len, found))} channels where images have {x.shape[1]}; give the "
                    "normalisation's `mean` and `std`"
                )
                found, source = None, "none that fits: inputs are images"
            self.doubts += doubts
            self.mean, self.std = found or ((0.0,), (1.0,))
        elif any(len(values) not in (1, x.shape[1]) for values in (self.mean, self.std)):
            given = max(len(self.mean), len(self.std))
            raise AuditSkipped(f"`mean` and `std` have {given} channels where images have {x.shape[1]}")
        self.to_image(x.detach())
        self.assumed = [f"input = (image - {_show(self.mean)}) / {_show(self.std)} ({source})"]


def _tuple(values: float | Sequence[float] | None, default: float) -> tuple[float, ...]:
    return as_tuple(default if values is None else values)


def _show(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")" if len(values) > 1 else f"{values[0]:.4g}"
