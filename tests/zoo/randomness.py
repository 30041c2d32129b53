"""Modules that draw random numbers as they run, from every kind of stream, at rates that change."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier, small


class AnnealedDropout(Classifier):
    """The rate of dropout falls from batch to batch."""

    def __init__(self):
        super().__init__(nn.Sequential(*small()[:3], nn.Dropout(0.5), small()[3]))

    def on_train_batch_start(self, batch, batch_idx):
        self.net[3].p *= 0.5


class DropPath(nn.Module):
    """timm's stochastic depth."""

    def __init__(self, drop_prob=0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)


class StochasticDepth(Classifier):
    """The chance of leaving a block out grows with the steps."""

    def __init__(self):
        super().__init__()
        self.block, self.drop_path = nn.Conv2d(3, 3, 3, padding=1), DropPath()

    def forward(self, x):
        return self.net(x + self.drop_path(torch.tanh(self.block(x))))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.drop_path.drop_prob += 0.3


class OwnNoise(Classifier):
    """Noise from a generator of the module's own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn(x.shape, generator=self.generator)
        return self.net(x)


class ForeignNoise(Classifier):
    """Noise from NumPy's and Python's streams."""

    def forward(self, x):
        if self.training:
            x = x * (1 + 0.1 * random.random()) + 0.1 * torch.from_numpy(np.random.randn(3, 1, 1)).float()  # noqa: NPY002
        return self.net(x)


class Gumbel(Classifier):
    """Draws a discrete choice with a falling temperature."""

    def __init__(self):
        super().__init__()
        self.tau, self.gate = 1.0, nn.Conv2d(3, 3, 1)

    def forward(self, x):
        choice = F.gumbel_softmax(self.gate(x), tau=self.tau, dim=1) if self.training else self.gate(x).softmax(1)
        return self.net(x * choice)

    def on_before_zero_grad(self, optimizer):
        self.tau = max(0.5, self.tau * 0.9)


CASES = [
    Case("annealed dropout", AnnealedDropout, alone=False),
    Case("growing stochastic depth", StochasticDepth, alone=False),
    Case("a generator of its own", OwnNoise, alone=False),
    Case("NumPy's and Python's streams", ForeignNoise, alone=False),
    Case("Gumbel softmax", Gumbel, alone=False),
]
