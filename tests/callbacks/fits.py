"""Small fits, with and without an audit, and attacks that behave or misbehave."""

import json
import random
import time
from typing import ClassVar

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.attacks.base import Attack, Found


class Net(L.LightningModule):
    """A readable network with dropout and a scheduled optimiser with a state."""

    def __init__(self, *extra, act=nn.Tanh):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            act(),
            nn.Conv2d(4, 4, 3),
            act(),
            *extra,
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(64, 5),
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)]


class Grey(Attack):
    """Guesses the mid-grey image, and leaves every global stream of random numbers somewhere else."""

    name: ClassVar[str] = "grey"
    converged = True

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def reconstruct(self, seen, budget):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        images = torch.full((seen.batch_size, *seen.input_shape), 0.5 + self.shift)
        return Found(seen.to_input(images), True, "guessed", 0.0, {"joint_deficiency": -7.0})


class Raises(Grey):
    name: ClassVar[str] = "raises"

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def reconstruct(self, seen, budget):
        super().__init__()
        super().reconstruct(seen, budget)
        raise self.error("this attack always fails")


class Sleeps(Grey):
    """Works for a minute unless its budget ends."""

    name: ClassVar[str] = "sleeps"

    def __init__(self) -> None:
        super().__init__()

    def reconstruct(self, seen, budget):
        for _ in budget.steps(6000, "sleeping"):
            time.sleep(0.01)
        return super().reconstruct(seen, budget)


class Allocates(Grey):
    """Asks for an exabyte."""

    name: ClassVar[str] = "allocates"

    def __init__(self) -> None:
        super().__init__()

    def reconstruct(self, seen, budget):
        return Found(torch.empty(2**60), True, "impossible", 0.0)


def images(n=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 5)


def trainer(folder, *callbacks, **kwargs):
    defaults = {"max_steps": 6, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        accelerator=kwargs.pop("accelerator", "cpu"),
        devices=kwargs.pop("devices", 1),
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_model_summary=False,
        log_every_n_steps=1,
        **(defaults | kwargs),
    )


def fit(folder, *callbacks, module=None, seed=0, batch_size=8, data=None, ckpt_path=None, **kwargs):
    """Train; returns the trainer and the module."""
    L.seed_everything(seed, verbose=False)
    module = module if isinstance(module, nn.Module) else (module or Net)()
    loader = DataLoader(images() if data is None else data, batch_size=batch_size, shuffle=True)
    attached = trainer(folder, *callbacks, **kwargs)
    attached.fit(module, loader, ckpt_path=ckpt_path)
    return attached, module


def traces(attached, module):
    """Everything that an audit might have changed."""
    optimizer = attached.optimizers[0].state_dict()["state"]
    return {
        "weights": {k: v.clone() for k, v in module.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()},
        "optimizer": {(i, k): torch.as_tensor(v).clone() for i, s in optimizer.items() for k, v in s.items()},
        "modes": {n: m.training for n, m in module.named_modules()},
        "hooks": {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in module.named_modules()},
        "torch": torch.rand(4),
        "numpy": torch.from_numpy(np.random.rand(4)),  # noqa: NPY002
        "python": torch.tensor([random.random() for _ in range(4)]),
    }


def same(a, b):
    """Whether two traces agree bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def lines(folder):
    """The records of the one fit below a folder."""
    return [json.loads(line) for line in next(folder.rglob("audit.jsonl")).read_text().splitlines()]
