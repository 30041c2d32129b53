"""Noise at five strengths on CNN3 V1 and CNN4 V1, untrained and trained: do limit, attack and c_ε(M) fall together?

`python benchmarks/defence_noise.py DATA [--image-size 16]` with an image folder of at least two classes; prints a line
for each strength (dB; the highest of the images, and the mean), and Spearman's rank correlations.
"""

import argparse
from statistics import fmean

import torch
from scipy.stats import spearmanr

from leakage_audit import attacks, observe
from leakage_audit.cli.commands import images_at
from leakage_audit.defences import Composition, GaussianNoise
from leakage_audit.measures.noise import effective_metric
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.scores.metrics import score
from leakage_audit.sweep import Recipe

LEVELS = (1e-3, 1e-2, 1e-1, 0.3, 1.0)  # of the gradient's root mean square, as c_ε(M) has it


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--classes", default="automobile,bird")
    parser.add_argument("--indices", default="1,5003")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="*", default=[0, 200])
    parser.add_argument("--networks", nargs="*", default=["cnn3_v1", "cnn4_v1"])
    parser.add_argument("--levels", type=float, nargs="*", default=LEVELS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = images_at(given.data, given.image_size, given.classes.split(","))
    for network in given.networks:
        for steps in given.steps:
            model = Recipe(data, network, steps=steps).train("none", 0.0).network
            rows = []
            for level in given.levels:
                rows.append(_row(model, data, given.indices, level))
                print(
                    f"{network} {steps:4d} steps  ε {level:<6g}",
                    "  ".join(f"{k} {v:8.2f}" for k, v in rows[-1].items()),
                    flush=True,
                )
            for a, b in (("limit", "knows"), ("limit", "c"), ("knows", "c")) if len(rows) > 1 else ():
                found = spearmanr([row[a] for row in rows], [row[b] for row in rows]).statistic
                print(f"{network} {steps:4d} steps  rank correlation of {a} and {b}: {found:.2f}", flush=True)


def _row(model: torch.nn.Module, data: object, indices: str, level: float) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ("limit", "knows", "does not", "c")}
    for index in map(int, indices.split(",")):
        image, label, _ = data.image_at(index)  # type: ignore[attr-defined]
        seen = observe(model, image, label, mean=0.5)
        size = float(torch.cat([g.flatten() for g in seen.gradients.values()]).square().mean().sqrt())
        shared = Composition([GaussianNoise(level * size)]).share(seen.gradients, index)
        known = shared.seen_by(seen, knows=True)
        found["limit"].append(noisy_limit(known, image[None], torch.tensor([label])).psnr[0])
        found["knows"].append(score(attacks.Joint()(known).images, image).psnr[0])
        found["does not"].append(score(attacks.Joint()(shared.seen_by(seen, knows=False)).images, image).psnr[0])
        found["c"].append(effective_metric(seen, [level])[0].c)
    return {name: fmean(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
