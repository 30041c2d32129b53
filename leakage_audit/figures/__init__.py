"""Pictures of results: reconstructions under their targets, the paper's comparison table, its loss curves.

Tensors in, tensors, pictures or figures out. Pixels are enlarged without blur, and clipped for showing only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from leakage_audit.figures.sheet import hatched, lay_out, tile


@dataclass(frozen=True)
class ComparisonRow:
    """One image and what each attack made of it.

    Attributes:
        network: Stands at the left, once for all the rows of a network that follow each other.
        about: Stands below it, once a row, for instance `image 1, truck`.
        target: The true image `(C, H, W)` in [0, 1].
        reconstructions: `(C, H, W)` by attack; an attack that another row has and this one has not leaves a gap.
        captions: One or more lines by attack; under `target` for the true image.
    """

    network: str
    about: str
    target: Tensor
    reconstructions: Mapping[str, Tensor]
    captions: Mapping[str, str] = field(default_factory=dict)


def caption(
    name: str, psnr: float, chance: float | None = None, ssim: float | None = None, meaning: str | None = None
) -> str:
    """What stands below a reconstruction: the attack, its PSNR in dB, what that means, what guessing had scored.

    Args:
        name: The attack's name.
        psnr: Of the reconstruction, in dB.
        chance: PSNR of `scores.chance_floor`.
        ssim: Of the reconstruction.
        meaning: As `meaning.word` puts it.
    """
    lines = [f"{name}  {psnr:.1f} dB"] + ([meaning] if meaning else [])
    parts = [] if ssim is None else [f"SSIM {ssim:.2f}"]
    parts += [] if chance is None else [f"chance {chance:.1f} dB"]
    return "\n".join(lines + ([", ".join(parts)] if parts else []))


def audit_grid(
    targets: Tensor,
    reconstructions: Mapping[str, Tensor],
    captions: Mapping[str, Sequence[str]] | None = None,
    title: str = "",
    enlarge: int | None = None,
) -> Tensor:
    """Each target above its reconstructions, a column an image and a row an attack.

    Args:
        targets: True images `(B, C, H, W)` or `(C, H, W)` in [0, 1].
        reconstructions: By attack, shaped like the targets and in their order; an image of NaN throughout shows as a
            hatched tile, which is no picture.
        captions: By attack, one text an image, as `caption` makes it; under `target` for the targets themselves.
            The attack's name where there is none.
        title: Stands above everything, for instance `step 200`.
        enlarge: Screen pixels along an image pixel; by default as many as make an image 160 pixels wide.

    Returns:
        8-bit picture `(3, height, width)` for `add_image`.

    Raises:
        ValueError: If shapes do not fit, or captions are not one an image.
    """
    captions = captions or {}
    rows = []
    expected = _batch(targets).shape
    for name, images in {"target": targets, **reconstructions}.items():
        images = _batch(images)
        if images.shape != expected:
            raise ValueError(f"{name} must be shaped like the targets {tuple(expected)}, got {tuple(images.shape)}")
        texts = captions.get(name, [name] * len(images))
        if len(texts) != len(images):
            raise ValueError(f"{name} has {len(texts)} captions for {len(images)} images")
        scale = enlarge or _enlargement(expected, 160)
        rows.append([tile(_pixels(image), text, scale) for image, text in zip(images, texts, strict=True)])
    return pil_to_tensor(lay_out(rows, title=title))


def comparison_figure(
    rows: Sequence[ComparisonRow], path: str | PathLike[str] | None = None, enlarge: int | None = None
) -> Image.Image:
    """The paper's figure: the network at the left, then the target and the attacks side by side, a row an image.

    Args:
        rows: From top to bottom.
        path: Where to save the picture; its ending says the format.
        enlarge: Screen pixels along an image pixel; by default as many as make an image 96 pixels wide.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("a comparison needs at least one row")
    attacks = list(dict.fromkeys(name for row in rows for name in row.reconstructions))
    cells: list[list[Image.Image | None]] = []
    for row in rows:
        scale = enlarge or _enlargement(row.target.shape, 96)
        cells.append([tile(_pixels(row.target), row.captions.get("target", ""), scale)])
        for name in attacks:
            image = row.reconstructions.get(name)
            cells[-1].append(None if image is None else tile(_pixels(image), row.captions.get(name, ""), scale))
    picture = lay_out(cells, ["target", *attacks], [(row.network, row.about) for row in rows])
    if path is not None:
        picture.save(path)
    return picture


def loss_plot(
    train: tuple[Sequence[float], Sequence[float]],
    test: tuple[Sequence[float], Sequence[float]],
    title: str = "",
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Training and test loss against the epoch, as in the paper's Figure 4.

    Args:
        train: Epochs, and the training loss at each.
        test: Epochs, and the test loss at each.
        title: Stands above the axes, for instance the network.
        path: Where to save the figure; its ending says the format.

    Raises:
        ValueError: If there are not as many losses as epochs, or none at all.
    """
    figure = Figure(figsize=(5.2, 3.6), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for name, (epochs, losses), colour in (("training", train, "#1f5fa8"), ("test", test, "#d8622a")):
        if len(epochs) != len(losses) or not epochs:
            raise ValueError(f"{name} needs one loss an epoch, got {len(losses)} for {len(epochs)} epochs")
        axes.plot(
            epochs, losses, color=colour, label=f"{name} loss", linewidth=1.6, marker="." if len(epochs) < 40 else ""
        )
    axes.set(xlabel="epoch", ylabel="cross entropy", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path)
    return figure


def _batch(images: Tensor) -> Tensor:
    return images[None] if images.ndim == 3 else images


def _enlargement(shape: Sequence[int], width: int) -> int:
    return max(1, round(width / max(shape[-2:])))


def _pixels(image: Tensor) -> np.ndarray:
    """An image `(C, H, W)` as 8-bit `(H, W, 3)`; values that are not finite show as grey."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image must be (1 or 3, H, W), got {tuple(image.shape)}")
    image = image.detach().cpu().float()
    if bool(image.isnan().all()):
        return hatched(*image.shape[1:])
    shown = torch.where(image.isfinite(), image, 0.5).clamp(0, 1).expand(3, -1, -1)
    return (shown * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
