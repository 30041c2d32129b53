"""Chains whose layers are unusual: c(M) and R-GAP must cope with them or the audit with their complaint."""

import torch
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier


def chain(act, *before):
    return Classifier(nn.Sequential(*before, nn.Conv2d(3, 6, 3), act, nn.Flatten(), nn.Linear(216, 5)))


class CastsInput(Classifier):
    """Casts its input, as code does that takes bytes too."""

    def forward(self, x):
        return self.net(x.float())


class CastsDevice(Classifier):
    """Brings its input where its weights are, and to their type."""

    def forward(self, x):
        weight = self.net[0].weight
        return self.net(x.to(device=weight.device, dtype=weight.dtype))


class InPlaceFirst(Classifier):
    """Its first operation is an activation in place."""

    def forward(self, x):
        return self.net(torch.relu_(x))


class Reshapes(Classifier):
    """Takes any batch of images, and asserts what it gets."""

    def forward(self, x):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (3, 8, 8)
        return self.net(x.view(-1, 3, 8, 8))


class Scripted(Classifier):
    """A loop that depends on values."""

    def forward(self, x):
        if float(x.mean()) > 10:
            x = x / 10
        return self.net(x)


CASES = [
    Case("x.float() in forward", CastsInput, chain=True),
    Case("x.to(weight) in forward", CastsDevice, chain=True),
    Case("in-place activation after the first layer", lambda: chain(nn.LeakyReLU(0.1, inplace=True)), chain=True),
    Case("in-place activation first", InPlaceFirst),
    Case("in-place module first", lambda: chain(nn.Tanh(), nn.LeakyReLU(0.1, inplace=True))),
    Case("RReLU", lambda: chain(nn.RReLU()), alone=False),
    Case("PReLU", lambda: chain(nn.PReLU())),
    Case("forward that asserts", Reshapes),
    Case("forward that branches", Scripted),
    Case("no bias, Softplus", lambda: chain(nn.Softplus()), chain=True),
    Case("dropout of channels", lambda: chain(nn.Tanh(), nn.Dropout2d(0.2)), alone=False),
]
