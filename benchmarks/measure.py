"""What c(M) costs: from shapes, from a step's gradients, and R-GAP on the largest system of the paper's networks.

    python benchmarks/measure.py

Times are CPU seconds of the process and wall-clock seconds; memory is the process's peak above what it held before.
"""

import resource
import time
from collections.abc import Callable

import torch

from leakage_audit import attacks, observe, score, security_metric
from leakage_audit.data.synthetic import draw
from leakage_audit.measures.structural import structural_rank
from leakage_audit.models import VARIANTS, build
from leakage_audit.networks.chain import read_chain
from leakage_audit.networks.layer_types import SpatialLayer


def timed(what: str, work: Callable[[], object]) -> object:
    """Run and print what it cost."""
    wall, cpu, peak = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(f"{what:44} {wall:8.3f} s   {cpu:8.3f} s CPU   +{grown:.0f} MB", flush=True)
    return result


def main() -> None:
    """All of it."""
    print(f"{torch.get_num_threads()} threads")
    image = draw("fish", [0])[0] / 255
    networks = {}
    for name in VARIANTS:
        torch.manual_seed(10)
        networks[name] = build(name)
    chains = [read_chain(network, (3, 32, 32)) for network in networks.values()]
    layers = [layer for chain in chains for layer in chain if isinstance(layer, SpatialLayer)]
    timed("ranks from shapes, thirteen layers", lambda: [structural_rank(layer) for layer in layers])
    seen = {name: observe(network, image, 3, mean=0.5) for name, network in networks.items()}
    timed("c(M) with conditions, all eight variants", lambda: [security_metric(step) for step in seen.values()])
    timed("c(M) with conditions, cnn3_v1", lambda: security_metric(seen["cnn3_v1"]))
    found = timed("R-GAP, cnn3_v3 (7542 × 5400)", lambda: attacks.RGAP()(seen["cnn3_v3"]))
    print(f"R-GAP, cnn3_v3: {score(found.images, image[None]).psnr[0]:.1f} dB from float32 gradients")  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
