"""PSNR and CPU time of the joint attack on averaged float32 gradients of batches, labels inferred.

    python benchmarks/batches.py --data DIR [--variants cnn2_v1,cnn3_v1] [--sizes 2,4,8] [--image-size 16]

DIR is an image folder, as `leakage-audit compare` reads it; images of another size are brought to `--image-size`. Each
batch is taken twice: with all classes different, and with the first class twice.
"""

import argparse
import resource
import time

import torch

from leakage_audit.attacks.joint import Joint
from leakage_audit.cli.commands import images_at
from leakage_audit.data.images import Images
from leakage_audit.models import build
from leakage_audit.observation import observe
from leakage_audit.scores.metrics import score


def first_of_classes(images: Images, count: int) -> list[list[int]]:
    """For each class the indices of its first `count` training images."""
    found: list[list[int]] = [[] for _ in images.classes]
    index = 0
    while min(map(len, found)) < count:
        found[images.image_at(index).label].append(index)
        index += 1
    return found


def main() -> None:
    """Print one row a batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--variants", default="cnn2_v1,cnn3_v3,cnn2_v2,cnn3_v1")
    parser.add_argument("--sizes", default="2,4,8")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    images = images_at(options.data, options.image_size)
    images.setup("fit")
    of_class = first_of_classes(images, 2)
    print("variant  batch  classes   cpu s  converged  psnr, worst first")
    for variant in options.variants.split(","):
        for size in map(int, options.sizes.split(",")):
            different = [indices[0] for indices in of_class[:size]]
            for kind, chosen in (("all", different), ("twice", [*different[:-1], of_class[0][1]])):
                batch = [images.image_at(index) for index in chosen]
                x, labels = torch.stack([one.image for one in batch]), torch.tensor([one.label for one in batch])
                torch.manual_seed(options.seed)
                seen = observe(build(variant, images.num_classes, options.image_size), x, labels, mean=0.5)
                cpu = time.process_time()
                found = Joint()(seen)
                cpu = time.process_time() - cpu
                psnr = " ".join(f"{p:.1f}" for p in sorted(score(found.images, x).psnr))
                print(f"{variant:8} {size:5}  {kind:7} {cpu:7.1f}  {found.converged!s:9}  {psnr}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
