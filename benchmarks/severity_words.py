"""The tables of docs/report.md: which word a spoilt photograph gets, and whether it gives itself away all the same.

python benchmarks/severity_words.py FOLDER, an image folder (FOLDER/train/<class>/*.png) of 32 × 32 photographs.
"""

import sys
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2.functional import gaussian_blur

from leakage_audit.scores.metrics import chance_floor, score
from leakage_audit.scores.severity import SEVERITIES, severity

PHOTOGRAPHS, CANDIDATES = 40, 2000  # as many of each class
STRENGTHS = {
    "noise": (0.05, 0.15, 0.3, 0.7),
    "blur": (1.2, 2.6, 6.0, 9.0),
    "faded to": (0.35, 0.2, 0.1, 0.05),
    "equations": (2900, 2300, 1000, 300),
}


@cache
def basis(unknowns: int, equations: int) -> Tensor:
    """What so many random equations determine, as orthonormal columns."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(unknowns, equations, generator=generator, dtype=torch.float64)).Q


def spoil(image: Tensor, mean: Tensor, how: str, strength: float) -> Tensor:
    """A reconstruction that is wrong in one way, of a photograph `(C, H, W)`."""
    if how == "noise":
        return image + strength * torch.randn(image.shape, dtype=image.dtype)
    if how == "blur":
        return gaussian_blur(image, [31, 31], [strength, strength])
    if how == "faded to":
        return mean + strength * (image - mean)
    q = basis(image.numel(), int(strength))
    return 0.5 + (q @ (q.T @ (image - 0.5).flatten())).view_as(image)


def main(folder: Path) -> None:
    """Print how many got which word, and how often the true one correlates best among the candidates."""
    torch.manual_seed(0)
    classes = sorted(path for path in (folder / "train").iterdir() if path.is_dir())
    files = [sorted(path.glob("*.png"))[: CANDIDATES // len(classes)] for path in classes]
    images = torch.stack([to_tensor(Image.open(file).convert("RGB")) for kind in files for file in kind]).double()
    mean = images.mean(0)
    normal = torch.nn.functional.normalize(images.flatten(1) - images.flatten(1).mean(1, keepdim=True))
    each = len(files[0])
    chosen = [kind * each + i for kind in range(len(classes)) for i in range(PHOTOGRAPHS // len(classes))]
    found: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for how, strengths in STRENGTHS.items():
        for strength in strengths:
            words = Counter()
            for index in chosen:
                spoilt, floor = spoil(images[index], mean, how, strength), chance_floor(mean, images[index])
                scores = score(spoilt, images[index])
                word = severity(scores.psnr[0], scores.ssim[0], floor.psnr[0], floor.ssim[0])
                flat = spoilt.flatten() - spoilt.mean()
                words[word] += 1
                known[word] += int((normal @ flat).argmax()) == index
            found += words
            print(how, strength, [words[name] for name in SEVERITIES])
    print({name: f"{known[name]} of {found[name]}, {known[name] / max(found[name], 1):.0%}" for name in SEVERITIES})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
