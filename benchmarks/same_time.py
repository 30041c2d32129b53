"""Joint beside the best first-order recipe in the same time and the limit, on networks that people train.

    python benchmarks/same_time.py DATA CELLS [--networks lenet,resnet8] [--indices 1,3] [--seconds 60]
        [--attacks limit,joint,cosine_tv] [--trained 200 --train-on FOLDER] [--stop-after 400]

DATA is an image folder of CIFAR-10 images named by number, labels are not granted. Seconds are CPU seconds of the
process, on one thread, so that a machine that is busy otherwise gives the same table. CELLS is a file of finished
cells, one a line: what is in it is not computed again, so that the table may be made bit by bit, and remade in part by
deleting lines. A limit of which `≥` stands was not solved to the end within its time.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from cells import CpuBudget
from everyday_networks import NETWORKS, network

from leakage_audit import Observation, observe, score
from leakage_audit.attacks import CosineTV, Joint
from leakage_audit.attacks.base import Attack
from leakage_audit.data import ImageFolder
from leakage_audit.measures.limit import LimitOptions, reconstruction_limit
from leakage_audit.runtime import OverBudget

ATTACKS: dict[str, type[Attack]] = {"joint": Joint, "cosine_tv": CosineTV}
KEYS = ("network", "trained", "index", "what", "seconds")


def cell(what: str, seen: Observation, image: torch.Tensor, label: int, seconds: float) -> dict:
    """PSNR, CPU seconds and a sentence."""
    start = time.process_time()
    if what == "limit":
        options, budget = LimitOptions(uncertainty=False), CpuBudget(seconds)
        limit = reconstruction_limit(seen, image[None], torch.tensor([label]), options=options, budget=budget)
        found = {"psnr": limit.psnr[0], "at_least": not limit.solved, "ended": f"rank {limit.rank}: {limit.ended}"}
    else:
        try:
            reached = ATTACKS[what]()(seen, CpuBudget(seconds))
        except OverBudget as error:
            return {"psnr": math.nan, "ended": f"no result: {error}", "cpu": time.process_time() - start}
        found = {"psnr": float(score(reached.images, image[None]).psnr[0]), "ended": reached.ended}
        found |= {"residual": reached.residual, "succeeded": reached.succeeded}
    return found | {"cpu": time.process_time() - start}


def main() -> None:
    """Compute what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("cells", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--indices", default="1,3")
    parser.add_argument("--seconds", default="60")
    parser.add_argument("--attacks", default="limit,joint,cosine_tv")
    parser.add_argument("--trained", type=int, default=0, help="steps of Adam")
    parser.add_argument("--train-on", default="", help="the image folder for them")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="begin no cell after so many seconds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.cells.touch()
    cells = {tuple(c[k] for k in KEYS): c for c in map(json.loads, asked.cells.read_text().splitlines())}
    for name in asked.networks.split(","):
        images, model = ImageFolder(asked.data, image_size=NETWORKS[name][1]), None
        for index in map(int, asked.indices.split(",")):
            for seconds in map(float, asked.seconds.split(",")):
                for what in asked.attacks.split(","):
                    key = (name, asked.trained, index, what, seconds)
                    if key not in cells and time.process_time() < asked.stop_after:
                        model = model or network(name, asked.trained, asked.train_on)
                        image, label, _ = images.image_at(index)
                        seen = observe(model, image, label, mean=0.5)
                        cells[key] = dict(zip(KEYS, key, strict=True)) | cell(what, seen, image, label, seconds)
                        with asked.cells.open("a") as file:
                            file.write(json.dumps(cells[key]) + "\n")
                    if key in cells:
                        one = cells[key]
                        least = "≥" if one.get("at_least") else " "
                        row = f"{name:18} {asked.trained:4} {index:6} {what:9} {seconds:4.0f} s"
                        print(f"{row} {least}{one['psnr']:6.1f} dB in {one['cpu']:5.1f} s  {one['ended']}", flush=True)


if __name__ == "__main__":
    main()
