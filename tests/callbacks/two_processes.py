"""Fits on two processes, one after the other, run as a script by test_distributed.py: `two_processes.py FOLDER CASE…`.

Both processes are started by the test, with the environment that torchrun would give them: importing everything and
finding each other costs seconds, and is done once for all cases.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from fits import Grey, Net, images, trainer
from torch.utils.data import DataLoader

from leakage_audit.callbacks import LeakageAudit


class FailsOnRank1(Grey):
    name = "fails"

    def reconstruct(self, seen, budget):
        if os.environ.get("LOCAL_RANK") == "1":
            raise RuntimeError("rank 1 has had enough")
        return super().reconstruct(seen, budget)


def cannot_unpack_on_rank_1(batch):
    if os.environ.get("LOCAL_RANK") == "1":
        raise RuntimeError("rank 1 does not understand")
    return batch


def unpack_with_a_collective(batch):
    if os.environ.get("LOCAL_RANK") == "1":
        raise RuntimeError("rank 1 does not come")
    torch.distributed.all_reduce(torch.zeros(1))
    return batch


class Together(Net):
    """Its scores need all ranks, which audit two images and one."""

    def forward(self, x):
        scores = super().forward(x)
        torch.distributed.all_reduce(torch.zeros(1))
        return scores


UNPACK = {"unpack": cannot_unpack_on_rank_1, "collective": unpack_with_a_collective}


def audit_of(case):
    """The audit of a case; None for a fit without."""
    if case == "none":
        return None
    attacks = [FailsOnRank1() if case == "fails" else Grey()]
    if case == "overhead":
        return LeakageAudit(every_n_steps=1, attacks=attacks, limit=0, max_overhead=0.2)
    gradient = "step" if case == "step" else "sample"
    unpack = UNPACK.get(case)
    return LeakageAudit(every_n_steps=2, attacks=attacks, limit=0, gradient=gradient, samples=3, unpack=unpack)


def run(case, folder):
    torch.manual_seed(1)
    audit = audit_of(case)
    attached = trainer(folder, *([] if audit is None else [audit]), devices=2, strategy="ddp", max_steps=6)
    module = Together() if case == "uneven" else Net()
    attached.fit(module, DataLoader(images(), batch_size=4, shuffle=True))
    latest = None if audit is None else audit.latest
    result = {
        "weights": {k: v.double().flatten().tolist() for k, v in module.state_dict().items()},
        "stream": torch.rand(3).tolist(),
        "metrics": {k: v for k, v in latest.metrics.items() if k != "audit/seconds"} if latest else {},
        "skipped": latest.skipped if latest else None,
    }
    Path(folder, f"{attached.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    folder, *cases = sys.argv[1:]
    warnings.simplefilter("ignore")
    for case in cases:
        Path(folder, case).mkdir(exist_ok=True)
        run(case, Path(folder, case))
