"""A fit on two processes, run as a script by test_ddp.py: `two_processes.py FOLDER NAME GRADIENT ATTACK`."""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from fits import Grey, Net, Raises, images, trainer
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
ATTACKS = {"grey": Grey, "raises": Raises, "fails": FailsOnRank1}

if __name__ == "__main__":
    folder, name, gradient, attack = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.manual_seed(1)
    unpack = UNPACK.get(attack)
    attacks = [ATTACKS.get(attack, Grey)()]
    audit = LeakageAudit(every_n_steps=2, attacks=attacks, limit=0, gradient=gradient, samples=3, unpack=unpack)
    if attack == "overhead":
        audit = LeakageAudit(every_n_steps=1, attacks=attacks, limit=0, max_overhead=0.2)
    callbacks = [] if attack == "none" else [audit]
    attached = trainer(folder, *callbacks, devices=2, strategy="ddp", max_steps=6)
    module = Together() if attack == "uneven" else Net()
    attached.fit(module, DataLoader(images(), batch_size=4, shuffle=True))
    result = {
        "weights": {k: v.double().flatten().tolist() for k, v in module.state_dict().items()},
        "stream": torch.rand(3).tolist(),
        "metrics": {k: v for k, v in audit.latest.metrics.items() if k != "audit/seconds"} if audit.latest else {},
        "skipped": audit.latest.skipped if audit.latest else None,
    }
    Path(folder, f"{name}_{attached.global_rank}.json").write_text(json.dumps(result))
