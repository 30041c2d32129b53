"""PSNR against time, Joint beside the strongest first-order recipe: python benchmarks/over_time.py --data DIR.

Each attack is started anew with every time limit and returns its best; the attacker's own clock counts.
"""

import argparse

import torch

from leakage_audit import observe, score
from leakage_audit.attacks import Attack, CosineTV, Joint
from leakage_audit.cli.commands import images_at
from leakage_audit.models import build
from leakage_audit.runtime import Budget

VARIANTS = ("cnn2_v2", "cnn3_v1", "cnn4_v1")
SECONDS = (1, 3, 10, 60)


def main() -> None:
    """Print a line for each network, image and attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--indices", type=int, nargs="+", default=[1, 3])
    given = parser.parse_args()
    data = images_at(given.data)
    print("PSNR in dB within", *(f"{s} s" for s in SECONDS))
    for variant in VARIANTS:
        for index in given.indices:
            image, label, _ = data.image_at(index)
            torch.manual_seed(10)
            seen = observe(build(variant), image, label, mean=0.5)
            rivals: tuple[Attack, ...] = (Joint(), CosineTV("modern", iterations=5000))
            for attack in rivals:
                found = [attack(seen, Budget(seconds)) for seconds in SECONDS]
                reached = [f"{score(guess.images, image).psnr[0]:.1f} ({guess.seconds:.1f} s)" for guess in found]
                print(f"{variant} {index} {attack.name}:", ", ".join(reached), flush=True)


if __name__ == "__main__":
    main()
