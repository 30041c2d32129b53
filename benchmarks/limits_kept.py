"""Whether audits keep to `max_seconds` and `max_memory_gb`: how long each takes, and what it adds to the fit's peak.

    python benchmarks/limits_kept.py [--rows "resnet18@32;vit_b_16@224"] [--threads 1]

Each row is a fit of two steps, audited at the first, and the same fit without an audit, each in a process of its own.
Allowed are `max_seconds` + 20 % + 1 s, and a peak of the fit's own + `max_memory_gb`, + 10 %. The processor's time is
shown beside the clock's: on a machine that others load, the audit stops by the clock, with less done.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.callbacks import LeakageAudit


@dataclass(frozen=True)
class Row:
    """A fit and its audit.

    Attributes:
        network: Makes the classifier.
        size: Pixels a side.
        batch: Images a step.
        settings: Of the audit.
    """

    network: Callable[[], nn.Module]
    size: int
    batch: int = 4
    settings: dict[str, Any] = field(default_factory=dict)


def chain(channels: int, size: int) -> nn.Module:
    """Two convolutions of so many channels, and a fully connected layer."""
    first, second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    head = nn.Linear(channels * (size // 4) ** 2, 10)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), head)


def flat(channels: int) -> nn.Module:
    """The same at 32 pixels without a pooling, so that the whole chain is read back."""
    first, second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(channels * 1024, 10))


def small() -> nn.Module:
    """A few channels and a global average, for any image size."""
    first, second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
    average = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), average, nn.Flatten(), nn.Linear(8, 10))


def vision(name: str, size: int) -> nn.Module:
    """Torchvision's network, untrained."""
    import torchvision

    torch.manual_seed(10)
    sized = {"image_size": size} if name.startswith("vit") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **sized)


WHOLE_STEP = {"gradient": "step"}
ROWS = {
    "resnet18@32": Row(lambda: vision("resnet18", 32), 32, settings={"max_seconds": 20.0}),
    "resnet18@32, step": Row(lambda: vision("resnet18", 32), 8, settings={"max_seconds": 20.0} | WHOLE_STEP),
    "flat32@32": Row(lambda: flat(32), 32, settings={"max_seconds": 30.0}),
    "flat64@32": Row(lambda: flat(64), 32, settings={"max_seconds": 30.0}),
    "chain64@32": Row(lambda: chain(64, 32), 32, settings={"max_seconds": 30.0}),
    "small@2000": Row(small, 2000, batch=1, settings={"max_seconds": 20.0}),
    "vit_b_16@224": Row(lambda: vision("vit_b_16", 224), 224, 1, {"max_seconds": 20.0}),
    "vit_b_16@224, 9 GB": Row(lambda: vision("vit_b_16", 224), 224, 1, {"max_seconds": 60.0, "max_memory_gb": 9.0}),
    "1024 images, 5 s": Row(lambda: chain(8, 32), 32, batch=1024, settings={"max_seconds": 5.0} | WHOLE_STEP),
    "1024 images, step": Row(lambda: chain(8, 32), 32, batch=1024, settings={"max_seconds": 1.0} | WHOLE_STEP),
}  # fmt: skip


class Module(L.LightningModule):
    """A classifier trained by plain gradient descent."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Without momentum, which would take memory."""
        return torch.optim.SGD(self.parameters(), 1e-3)


class Timed(LeakageAudit):
    """An audit that notes how long the step's hook takes, by the clock and on the processor."""

    seconds = cpu = 0.0

    def on_before_optimizer_step(self, *arguments: Any) -> None:
        """The audit."""
        start, begun = time.perf_counter(), time.process_time()
        super().on_before_optimizer_step(*arguments)
        self.seconds = max(self.seconds, time.perf_counter() - start)
        self.cpu = max(self.cpu, time.process_time() - begun)


def peak() -> float:
    """Gigabytes that this process has held at most."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20 * 1.073741824


def run(name: str, audited: bool, threads: int) -> None:
    """The fit, and a line of JSON about it."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    row = ROWS[name]
    data = TensorDataset(torch.rand(2 * row.batch, 3, row.size, row.size), torch.arange(2 * row.batch) % 10)
    audit = Timed(every_n_steps=100, mean=0.0, **row.settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=2,
            accelerator="cpu",
            callbacks=[audit] if audited else [],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(row.network()), DataLoader(data, row.batch))
    found: dict[str, Any] = {"peak": peak(), "seconds": audit.seconds, "cpu": audit.cpu}
    if audited and audit.latest is not None:
        known = {key: round(value, 2) for key, value in audit.latest.metrics.items() if "layer" not in key}
        found |= {"skipped": audit.latest.skipped, "no_results": audit.latest.no_results, "metrics": known}
    print("RESULT " + json.dumps(found), flush=True)


def measured(name: str, audited: bool, threads: int) -> dict[str, Any]:
    """The same in a process of its own; how it ended, if it did not come to an end."""
    command = [sys.executable, __file__, "--run", name, "--threads", str(threads)] + ["--audited"] * audited
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(lines[-1][7:]) if lines else {"died": done.returncode, "said": done.stderr[-2000:]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=None, help="names, separated by ';'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--audited", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run is not None:
        run(given.run, given.audited, given.threads)
        return
    print(f"{'fit':20} {'limit s':>7} {'took s':>7} {'cpu s':>6} {'limit GB':>8} {'added GB':>8} {'own GB':>7}  kept")
    for name in given.rows.split(";") if given.rows else ROWS:
        alone, audited = (measured(name, with_audit, given.threads) for with_audit in (False, True))
        settings = ROWS[name].settings
        seconds, memory = settings["max_seconds"], settings.get("max_memory_gb", 2.0)
        if "died" in alone | audited:
            print(f"{name:20} died: {alone | audited}", flush=True)
            continue
        added = audited["peak"] - alone["peak"]
        in_time = audited["seconds"] <= 1.2 * seconds + 1
        in_memory = audited["peak"] <= 1.1 * (alone["peak"] + memory)
        kept = " ".join(
            f"{what} {'yes' if held else 'NO'}" for what, held in (("time", in_time), ("memory", in_memory))
        )
        took = f"{seconds:7.0f} {audited['seconds']:7.1f} {audited['cpu']:6.1f}"
        numbers = f"{took} {memory:8.1f} {added:8.2f} {alone['peak']:7.2f}"
        print(f"{name:20} {numbers}  {kept}", flush=True)
        print(f"    {audited['skipped'] or audited['no_results'] or ''} {audited['metrics']}", flush=True)


if __name__ == "__main__":
    main()
