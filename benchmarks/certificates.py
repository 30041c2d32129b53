"""False certificates: random batches told apart at hidden layers and at convolutions, each held against the truth.

    python benchmarks/certificates.py [--batches 1000] [--first 0] [--kind hidden|convolution|both]

A certificate is false where an input, a label or the number of images is wrong. Networks, widths, activations, batch
sizes, repeated labels and images, modes, precisions and noise are drawn anew for each batch; in one of six the attacker
holds a network of other weights, at which nothing may be certified. A tenth of them are trained for a few steps first.
"""

import argparse
import random
import time
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from leakage_audit import observe
from leakage_audit.equations.convolution_certificate import certify
from leakage_audit.equations.convolution_separation import separate_convolution
from leakage_audit.equations.hidden_separation import separate_hidden
from leakage_audit.networks.dataflow import read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import Observation, copy_network
from leakage_audit.runtime import Budget

ACTIVATIONS = (nn.ReLU, nn.ReLU, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.SiLU)
WRONG = 1e-2  # relative error from which an input is another one


def hidden(draw: random.Random) -> tuple[nn.Module, str]:
    """A fully connected network on 8 × 8 images."""
    width, activation, classes = draw.choice((60, 100, 200)), draw.choice(ACTIVATIONS), draw.choice((3, 5, 10))
    layers = [nn.Flatten(), nn.Linear(192, width), activation(), nn.Linear(width, 40), activation()]
    return nn.Sequential(*layers, nn.Linear(40, classes)), "1"


def convolutional(draw: random.Random) -> tuple[nn.Module, str]:
    """A convolution that may tell 4 × 4 or 2 × 2 inputs apart, under normalisation or none and a pooling."""
    channels, side = draw.choice((40, 80, 160)), draw.choice((2, 4))
    activation, classes = draw.choice(ACTIVATIONS), draw.choice((3, 5, 10))
    normalise = draw.random() < 0.6
    norm = nn.BatchNorm2d(90) if normalise else nn.Identity()
    net = nn.Sequential(
        nn.Conv2d(3, channels, 3, 8 // side, 1), activation(), nn.Conv2d(channels, 90, 3, 1, 1, bias=not normalise),
        norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(90, classes),
    )  # fmt: skip
    return net.train(draw.random() < 0.5), "2"


def batch_of(draw: random.Random, network: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    """Images, uniform or centred, one of them perhaps twice, and labels, perhaps all alike."""
    size, classes = draw.choice((1, 2, 3, 5, 8, 12)), network[-1].out_features  # type: ignore[index]
    images = torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    if draw.random() < 0.3:
        images = images - 0.5
    if size > 2 and draw.random() < 0.1:
        images[1] = images[0]
    labels = torch.tensor([draw.randrange(classes) for _ in range(size)])
    return images, labels[:1].expand(size).clone() if draw.random() < 0.1 else labels


def judged(found: Tensor, labels: Tensor, truth: Tensor, true_labels: Tensor, free: bool) -> bool:
    """Whether each input found is another image's, with its label; `free` of a common size."""
    found, truth = found.double().flatten(1), truth.double().flatten(1)
    if free and len(found) == len(truth):
        found = found * (truth.norm() / found.norm())
    distance = torch.cdist(found, truth) / truth.norm(dim=1)
    used: set[int] = set()
    for row, label in zip(distance, labels.tolist(), strict=True):
        fits = [i for i in range(len(truth)) if row[i] < WRONG and int(true_labels[i]) == label and i not in used]
        if not fits:
            return False
        used.add(fits[0])
    return True


def trial(seed: int, kind: str) -> str:
    """`nothing`, `right`, `FALSE`, or `none` where the batch has no gradient."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    kind = kind if kind != "both" else draw.choice(("hidden", "convolution"))
    network, layer = (hidden if kind == "hidden" else convolutional)(draw)
    images, labels = batch_of(draw, network, seed)
    if draw.random() < 0.1:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(draw.choice((5, 30))):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    dtype = draw.choice((torch.float32, torch.float32, torch.float64))
    seen = observe(network.to(dtype), images.to(dtype), labels)
    for gradient in seen.gradients.values():
        if draw.random() < 0.1:
            gradient += 10.0 ** draw.uniform(-7, -3) * gradient.square().mean().sqrt() * torch.randn_like(gradient)
    rounding = torch.finfo(dtype).eps
    seen = seen.to(torch.float64)
    wrong = draw.random() < 1 / 6
    if wrong:
        torch.manual_seed(seed + 1)
        other = copy_network(seen.network)
        for module in other.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
        seen = replace(seen, network=other.double())
    truth = stateless(network.double())[: int(layer)](images.double()).flatten(1)  # type: ignore[index]
    found = _separated(seen, layer, kind, rounding)
    if found is None:
        return "nothing"
    inputs, got, free = found
    return "FALSE" if wrong or not judged(inputs, got, truth, labels, free) else "right"


def _separated(seen: Observation, layer: str, kind: str, rounding: float) -> tuple[Tensor, Tensor, bool] | None:
    if kind == "hidden":
        hidden_layer = separate_hidden(seen, rounding, budget=Budget(20))
        if hidden_layer is None or hidden_layer.layer != layer:
            return None
        return hidden_layer.features, hidden_layer.labels, False
    found, flow = separate_convolution(seen, layer, rounding, budget=Budget(20)), read_dataflow(stateless(seen.network))
    certified = None if found is None or flow is None else certify(seen, flow, found)
    return None if certified is None else (certified.inputs, certified.labels, not certified.scaled)


def main() -> None:
    """Count outcomes and print the seeds of those that are false."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", default="both")
    options = parser.parse_args()
    outcomes, start = Counter[str](), time.process_time()
    for seed in range(options.first, options.first + options.batches):
        outcome = trial(seed, options.kind)
        outcomes[outcome] += 1
        if outcome == "FALSE":
            print(f"seed {seed} is certified falsely", flush=True)
        if (seed + 1) % 25 == 0:
            print(f"{seed + 1}: {dict(outcomes)}, {time.process_time() - start:.0f} CPU seconds", flush=True)
    print(dict(outcomes))


if __name__ == "__main__":
    main()
