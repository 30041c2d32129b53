"""A training loop without a Trainer: Lightning Fabric here, plain PyTorch with the lines marked (*) left out.

`watch` is all there is to add: `step(batch)` stands between the backward pass and the optimiser's step, and what it
finds is where a LeakageAudit would put it.

    python examples/fabric_loop.py
    tensorboard --logdir runs/fabric --load_fast=false
"""

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from leakage_audit import watch
from leakage_audit.callbacks import Watch
from leakage_audit.data import Synthetic
from leakage_audit.models import build


def main(max_steps: int = 80, root: str = "runs/fabric", accumulate: int = 2) -> Watch:
    """Train, auditing every 20 optimiser steps; each of them averages over `accumulate` batches."""
    torch.manual_seed(0)
    data = Synthetic(train_images=600, batch_size=16)
    data.setup("fit")
    loader: DataLoader = data.train_dataloader()
    model = build("cnn2_v2")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fabric = Fabric(accelerator="cpu", devices=1)  # (*)
    model, optimizer = fabric.setup(model, optimizer)  # (*)
    loader = fabric.setup_dataloaders(loader)  # (*)
    steps = 0
    with watch(
        model, optimizer, loss=F.cross_entropy, log_dir=root, every_n_steps=20, attacks=["rgap"], mean=0.5
    ) as audit:
        while steps < max_steps:
            for i, (images, labels) in enumerate(loader):
                accumulating = (i + 1) % accumulate != 0
                with fabric.no_backward_sync(model, enabled=accumulating):  # (*)
                    fabric.backward(F.cross_entropy(model(images), labels) / accumulate)  # (*) .backward()
                audit.step((images, labels), accumulating=accumulating)
                if accumulating:
                    continue
                optimizer.step()
                optimizer.zero_grad()
                steps += 1
                if steps == max_steps:
                    break
    return audit


if __name__ == "__main__":
    main()
