"""What an attached audit costs a training step: CNN4 V1 on batches of 64, in CPU seconds of this process.

    python benchmarks/overhead.py

Two fits with a TensorBoard logger: with the audit off schedule after the first step (what every step pays), and with
c(M) and the layers measured at every step. The time spent inside the audit's hooks is set against the rest of the same
steps, so that both come from the same moments of a busy machine. An audit with attacks costs what its attacks cost;
`max_overhead` holds that to a share of the training time.
"""

import argparse
import logging
import tempfile
import time
import warnings
from statistics import median
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.models import Variant

HOOKS = ("on_train_batch_start", "on_before_optimizer_step")


class Timed(LeakageAudit):
    """An audit that notes the CPU seconds of each step inside and outside of its hooks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inside: list[float] = []
        self.outside: list[float] = []
        self._spent, self._last = 0.0, time.process_time()
        for hook in HOOKS:
            setattr(self, hook, self._timed(getattr(self, hook)))

    def _timed(self, hook: Any) -> Any:
        def timed(*arguments: Any) -> None:
            start = time.process_time()
            hook(*arguments)
            self._spent += time.process_time() - start

        return timed

    def on_train_batch_end(self, *arguments: Any) -> None:
        """One step is over."""
        now = time.process_time()
        self.inside.append(self._spent)
        self.outside.append(now - self._last - self._spent)
        self._spent, self._last = 0.0, now


def shares(steps: int, batch_size: int, **settings: Any) -> tuple[float, float]:
    """Median CPU seconds of a step inside and outside of the audit, the first ten steps aside."""
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(8 * batch_size, 3, 32, 32), torch.arange(8 * batch_size) % 10)
    audit = Timed(every_n_steps=10**6, attacks=[], mean=0.0, **settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=[audit],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Variant("cnn4_v1"), DataLoader(data, batch_size))
    return median(audit.inside[10:]), median(audit.outside[10:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=210)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    print(f"CNN4 V1, batch {options.batch_size}, {torch.get_num_threads()} thread(s), CPU milliseconds a step")
    for name, settings in (("off schedule", {}), ("measured every step", {"measure_every_n_steps": 1})):
        inside, outside = shares(options.steps, options.batch_size, **settings)
        print(f"{name:20} training {1e3 * outside:7.2f}   audit {1e3 * inside:7.3f}   {100 * inside / outside:6.2f} %")


if __name__ == "__main__":
    main()
