"""The one training that every point of a sweep repeats, with its own defence."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.compare.subjects import Subject
from leakage_audit.data.images import Images
from leakage_audit.defences import ClipPerSample, Composition, GaussianNoise
from leakage_audit.defences.clip_per_sample import sample_gradients
from leakage_audit.defences.dp_sgd import DPSGD, Accounting, noise_multiplier_for
from leakage_audit.observation import per_channel
from leakage_audit.sweep.mechanisms import BOUND, DP_SGD, mechanisms_of


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        network: In eval mode.
        accuracy: On the held-out images; None if there are none.
        epsilon: Spent by the whole training, by Opacus' accountant; None where it is not differentially private.
        delta: δ of (ε, δ).
        noise_multiplier: Of DP-SGD.
        mechanisms: What an image's gradient goes through before it is shared.
    """

    network: nn.Module
    accuracy: float | None
    epsilon: float | None
    delta: float
    noise_multiplier: float | None
    mechanisms: list


@dataclass(frozen=True)
class Recipe:
    """Network, data, optimiser; Adam, cross entropy.

    Attributes:
        data: Images to train and to test on.
        network: A variant's name or the dotted path of an importable network.
        steps: Optimiser steps.
        batch_size: Images a step; for DP-SGD the expected number.
        lr: Learning rate.
        seed: Of weights, order and noise.
        mean: The network's input is `(image - mean) / std`.
        std: See `mean`.

    Raises:
        ValueError: If a number is out of its range.
    """

    data: Images
    network: str
    steps: int = 200
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 10
    mean: float = 0.5
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must not be negative, got {self.steps} and {self.batch_size}")
        if not (self.lr > 0 and math.isfinite(self.lr) and self.std > 0):
            raise ValueError(f"lr and std must be positive, got {self.lr} and {self.std}")

    def build(self) -> nn.Module:
        """The network before training, the same every time."""
        return Subject(self.network, self.data.num_classes, self.data.image_size, self.seed, None).build()

    @cached_property
    def training(self) -> tuple[Tensor, Tensor]:
        """All inputs and labels to train on, read once."""
        self.data.setup("fit")
        return self._read(self.data.train_dataloader())

    @cached_property
    def testing(self) -> tuple[Tensor, Tensor]:
        """All inputs and labels to test on: the source's test images, else those held out; none if there are none."""
        try:
            self.data.setup("test")
        except ValueError:
            return self._read(self.data.val_dataloader())
        return self._read(self.data.test_dataloader())

    def _read(self, loader: Any) -> tuple[Tensor, Tensor]:
        if isinstance(loader, list):
            return torch.empty(0), torch.empty(0)
        pairs = [loader.dataset[i] for i in range(len(loader.dataset))]
        mean, std = (per_channel(values, pairs[0][0][None]) for values in (self.data.mean, self.data.std))
        images = torch.stack([x for x, _ in pairs]) * std + mean
        return (images - self.mean) / self.std, torch.tensor([y for _, y in pairs])

    def train(self, mechanism: str, strength: float) -> Trained:
        """Train with a defence on every step's gradient.

        Raises:
            ValueError: If the mechanism or its strength makes no sense.
            OpacusMissing: If DP-SGD is asked for without Opacus.
        """
        network = self.build().train()
        names = [name for name, p in network.named_parameters() if p.requires_grad]
        chosen = mechanisms_of(mechanism, strength, names)
        x, y = self.training
        rate, delta = min(self.batch_size / len(x), 1.0), 1 / len(x)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), self.lr)
        private, multiplier = None, None
        if mechanism == DP_SGD:
            multiplier = noise_multiplier_for(strength, delta, rate, max(self.steps, 1))
            private = DPSGD(network, optimizer, multiplier, BOUND, self.batch_size, self.seed)
            optimizer = private.optimizer
            chosen = [ClipPerSample(BOUND), GaussianNoise(multiplier * BOUND)]
        composition = Composition(chosen, self.seed)
        with torch.inference_mode(False), torch.enable_grad():
            for step in range(self.steps):
                if private is not None:
                    batch = (torch.rand(len(x), generator=generator) < rate).nonzero()[:, 0]
                else:
                    batch = torch.randint(len(x), (self.batch_size,), generator=generator)
                if len(batch):
                    self._step(network, optimizer, composition if private is None else None, x[batch], y[batch], step)
        if private is not None:
            private.close()
        network.eval()
        spent = None if multiplier is None else Accounting(multiplier, rate, delta).epsilon(self.steps)
        return Trained(network, self._accuracy(network), spent, delta, multiplier, chosen)

    def _step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, composition: Composition | None, x: Tensor,
        y: Tensor, step: int,
    ) -> None:  # fmt: skip
        optimizer.zero_grad()
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if composition is not None and composition.needs_samples:
            shared = composition.share_samples(sample_gradients(network, F.cross_entropy, x, y, list(own)), step)
        else:
            F.cross_entropy(network(x), y).backward()
            if composition is None:  # Opacus' optimiser clips and noises by itself
                optimizer.step()
                return
            shared = composition.share({name: p.grad for name, p in own.items() if p.grad is not None}, step)
        for name, p in own.items():
            p.grad = shared.gradients.get(name)
        optimizer.step()

    def _accuracy(self, network: nn.Module) -> float | None:
        x, y = self.testing
        if not len(x):
            return None
        with torch.no_grad():
            return float((torch.cat([network(part) for part in x.split(500)]).argmax(1) == y).float().mean())
