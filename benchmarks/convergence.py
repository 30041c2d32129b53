"""Does the joint attack converge on images and weights that nothing was tuned on? One line an image, then the summary.

    python benchmarks/convergence.py --data DIR [--variants cnn3_v1,cnn4_v1] [--images 20] [--seeds 5]

The images are spread over the training set; those that docs/method.md reports on (1 and 3) are not among them.
"""

import argparse
import statistics

import torch

from leakage_audit import observe, score
from leakage_audit.attacks import build
from leakage_audit.cli.commands import images_at
from leakage_audit.models import build as build_variant

REPORTED = (1, 3)


def main() -> None:
    """Print the PSNR by seed of each image, and median, worst and share converged of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--variants", default="cnn3_v1,cnn4_v1")
    parser.add_argument("--attack", default="joint")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    data, attack = images_at(given.data), build(given.attack)
    indices = [index for index in data.indices if index not in REPORTED]
    chosen = indices[:: max(1, len(indices) // given.images)][: given.images]
    for variant in given.variants.split(","):
        reached, converged, seconds = [], 0, []
        for index in chosen:
            image, label, _ = data.image_at(index)
            row = []
            for seed in range(given.seeds):
                torch.manual_seed(seed)
                seen = observe(build_variant(variant), image, label, mean=0.5)
                found = attack(seen)
                row.append(score(found.images, image).psnr[0])
                converged += found.converged
                seconds.append(found.seconds)
            print(variant, index, *(f"{value:.1f}" for value in row), flush=True)
            reached += row
        print(
            f"{variant}: median {statistics.median(reached):.1f} dB, worst {min(reached):.1f} dB,"
            f" {converged} of {len(reached)} converged,"
            f" {statistics.median(seconds):.1f} s (longest {max(seconds):.1f} s)"
        )


if __name__ == "__main__":
    main()
