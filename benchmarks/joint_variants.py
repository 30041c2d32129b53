"""PSNR, seconds and memory of the joint attack on the paper's variants, from float32 gradients of two images.

    python benchmarks/joint_variants.py --data DIR [--variants cnn3_v1,cnn4_v1] [--indices 1,3] [--seed 10]

DIR is an image folder, `DIR/train/<class>/<index>.png`, as `leakage-audit compare` reads it.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leakage_audit.attacks.joint import Joint
from leakage_audit.models import VARIANTS, build
from leakage_audit.observation import observe
from leakage_audit.scores.metrics import score


def picture(folder: Path, index: int) -> tuple[Tensor, int]:
    """The image with this number and its class's place in the sorted classes."""
    classes = sorted(path.name for path in (folder / "train").iterdir())
    path = next((folder / "train").glob(f"*/{index:05d}.png"))
    pixels = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    return torch.from_numpy(pixels).float() / 255, classes.index(path.parent.name)


def main() -> None:
    """Print one row an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--indices", default="1,3")
    parser.add_argument("--prior", default="colour_tv")
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    print("variant  index   psnr  wall s  cpu s  steps  rank  pinned  converged")
    for variant in options.variants.split(","):
        for index in map(int, options.indices.split(",")):
            image, label = picture(options.data, index)
            torch.manual_seed(options.seed)
            seen = observe(build(variant), image, label, mean=0.5)
            cpu = time.process_time()
            found = Joint(prior=options.prior)(seen)
            cpu = time.process_time() - cpu
            d, psnr = found.details, score(found.images, image[None]).psnr[0]
            print(
                f"{variant:8} {index:5} {psnr:6.2f} {found.seconds:7.1f} {cpu:6.1f} {d['steps']:6} {d['rank']:5}"
                f" {d['pinned']:7}  {found.converged}",
                flush=True,
            )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
