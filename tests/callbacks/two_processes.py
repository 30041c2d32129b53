"""Fits on two processes, one after the other: finding each other costs time, and is done once for all cases."""

import json
import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from fits import Grey, Net, images, trainer
from torch import nn
from torch.utils.data import DataLoader

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.watch import watch


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


def run_own_opacus(audited, folder):
    """A fit of a user who calls `make_private` himself: under Lightning's DDP, as Opacus' single-process set-up."""
    from test_own_opacus import Own

    torch.manual_seed(1)
    audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0, gradient="step")
    attached = trainer(
        folder, *([audit] if audited else []), devices=2, strategy="ddp", max_steps=3, max_epochs=-1,
        use_distributed_sampler=False,
    )  # fmt: skip
    module = Own()
    torch.manual_seed(1 + attached.global_rank)  # other images and other noise on each
    attached.fit(module, DataLoader(images(64), batch_size=16))
    keep(folder, attached.global_rank, module, audit.latest)


def run_distributed_opacus(audited, folder):
    """A plain loop as Opacus has it for several processes: its own wrapper, and its own optimiser."""
    import opacus
    from opacus.distributed import DifferentiallyPrivateDistributedDataParallel

    torch.manual_seed(1)
    rank = torch.distributed.get_rank()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5))
    model = DifferentiallyPrivateDistributedDataParallel(network)
    torch.manual_seed(1 + rank)
    model, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), 0.1),
        data_loader=DataLoader(images(64), batch_size=16), noise_multiplier=1.0, max_grad_norm=0.5,
    )  # fmt: skip
    options = {"attacks": [Grey()], "gradient": "step", "every_n_steps": 1, "limit": 0, "log_dir": folder / str(rank)}
    found = watch(model, optimizer, loss=F.cross_entropy, **options) if audited else None
    for _, (x, y) in zip(range(3), loader, strict=False):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if found is not None:
            found.step((x, y))
        optimizer.step()
    if found is not None:
        found.close()
    keep(folder, rank, model, None if found is None else found.audit.latest)


OPACUS = {"own_opacus": run_own_opacus, "distributed_opacus": run_distributed_opacus}


def keep(folder, rank, module, latest):
    result = {
        "weights": {k: v.double().flatten().tolist() for k, v in module.state_dict().items()},
        "stream": torch.rand(3).tolist(),
        "metrics": {k: v for k, v in latest.metrics.items() if k != "audit/seconds"} if latest else {},
        "skipped": latest.skipped if latest else None,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))


def run(case, folder):
    kind, _, without = case.partition("-")
    if kind in OPACUS:
        OPACUS[kind](not without, folder)
        return
    torch.manual_seed(1)
    audit = audit_of(case)
    attached = trainer(folder, *([] if audit is None else [audit]), devices=2, strategy="ddp", max_steps=6)
    module = Together() if case == "uneven" else Net()
    attached.fit(module, DataLoader(images(), batch_size=4, shuffle=True))
    keep(folder, attached.global_rank, module, None if audit is None else audit.latest)


def run_all(folder, cases):
    """What each of the two processes does."""
    warnings.simplefilter("ignore")
    for case in cases:
        (folder / case).mkdir(exist_ok=True)
        run(case, folder / case)
