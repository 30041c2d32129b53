"""Where Joint's iteration leaves the road: residual of the gradient and PSNR at every step.

    python benchmarks/residual_over_steps.py DATA OUTPUT [--networks lenet,resnet8,resnet20,leaky_cnn3_v1]
        [--indices 1,3] [--seconds 60] [--figure docs/residual-over-steps.svg]

Every image at which Joint asks its prior is a step's start. Residual is the relative distance of its gradient from the
observed one, in double precision, each parameter counting alike: at the image itself it is rounding. Runs that are in
OUTPUT/residual_over_steps.csv are not made again. Seconds are CPU seconds of the process.
"""

import argparse
import csv
from pathlib import Path

import torch
from cells import CpuBudget, append
from everyday_networks import NETWORKS, network
from torch import Tensor

from leakage_audit import Observation, observe, score
from leakage_audit.attacks import Joint
from leakage_audit.data import ImageFolder
from leakage_audit.layerwise.label_inference import labels_for
from leakage_audit.matching.objective import Candidates
from leakage_audit.priors import LocalGaussian, TotalVariation

FIELDS = ("network", "index", "step", "seconds", "psnr", "residual")
NAMES = {
    "lenet": "LeNet-5", "resnet8": "ResNet8, eval mode", "resnet20": "ResNet-20, eval mode",
    "leaky_cnn3_v1": "LeakyReLU, CNN3 V1",
}  # fmt: skip
COLOURS = ("#1f5fa8", "#d8622a", "#2b8a3e")


class Watched(TotalVariation):
    """Colour total variation that keeps the images it is asked at."""

    def __init__(self, budget: CpuBudget) -> None:
        super().__init__()
        self.asked: list[tuple[float, Tensor]] = []
        self._budget = budget

    def local_gaussian(self, image: Tensor) -> LocalGaussian:
        """As ever."""
        self.asked.append((self._budget.spent, image.detach().clone()))
        return super().local_gaussian(image)


def residual(seen: Observation, images: Tensor) -> float:
    """Root mean square over the parameters of the gradient's relative distance; of `seen` in float64."""
    candidates = Candidates(seen, None)
    found = candidates.gradients(seen.to_input(images), labels_for(seen)[0])
    apart = [
        float((g.detach() - t).norm() / t.norm()) for g, t in zip(found, candidates.targets, strict=True) if t.any()
    ]
    return float(torch.tensor(apart).square().mean().sqrt())


def steps(name: str, data: str, index: int, seconds: float) -> list[dict]:
    """A row a step, the last what was returned."""
    model = network(name)
    image, label, _ = ImageFolder(data, image_size=NETWORKS[name][1]).image_at(index)
    seen, budget = observe(model, image, label, mean=0.5), CpuBudget(seconds)
    prior = Watched(budget)
    found = Joint(prior)(seen, budget)
    exact, asked = seen.to(torch.float64), [*prior.asked, (budget.spent, found.images.to(torch.float64))]
    return [
        {
            "network": name, "index": index, "step": step, "seconds": spent,
            "psnr": float(score(one.to(image), image[None]).psnr[0]), "residual": residual(exact, one),
        }
        for step, (spent, one) in enumerate(asked)
    ]  # fmt: skip


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """PSNR above, residual below, a column a network and a line an image; what was returned is a point."""
    import matplotlib

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "residual"}
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(3.1 * len(names), 4.6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        indices = sorted({row["index"] for row in rows if row["network"] == name}, key=int)
        for index, colour in zip(indices, COLOURS, strict=False):
            own = [row for row in rows if (row["network"], row["index"]) == (name, index)]
            for ax, what in zip(axes[:, column], ("psnr", "residual"), strict=True):
                values = [float(row[what]) for row in own]
                ax.plot(values, color=colour, linewidth=1.2, label=f"image {index}")
                ax.plot([len(values) - 1], values[-1:], "o", color=colour, markersize=4)
        axes[0, column].set_title(NAMES.get(name, name), size=9)
        axes[1, column].set(yscale="log", xlabel="step")
        axes[0, column].legend(frameon=False, fontsize=7)
    axes[0, 0].set_ylabel("PSNR in dB")
    axes[1, 0].set_ylabel("residual of the gradient")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)


def main() -> None:
    """Run what is missing, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--networks", default=",".join(NAMES))
    parser.add_argument("--indices", default="1,3")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.output.mkdir(parents=True, exist_ok=True)
    path = asked.output / "residual_over_steps.csv"
    done = list(csv.DictReader(path.open())) if path.exists() else []
    for name in asked.networks.split(","):
        for index in asked.indices.split(","):
            if not any((row["network"], row["index"]) == (name, index) for row in done):
                for row in steps(name, asked.data, int(index), asked.seconds):
                    append(path, row, FIELDS)
    rows = [row for row in csv.DictReader(path.open()) if row["network"] in asked.networks.split(",")]
    for row in rows:
        print("  ".join(f"{row[field]:>14}" for field in FIELDS))
    draw(rows, asked.figure or asked.output / "residual_over_steps.svg")


if __name__ == "__main__":
    main()
