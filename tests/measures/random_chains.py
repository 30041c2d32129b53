"""Random chains of convolutions and average poolings, small enough for dense matrices."""

import random

import torch
from torch import nn


def random_chain(seed, linear=False):
    """A chain in float64 and its input shape; None where the draw has no room for its layers.

    Args:
        seed: Of shapes and weights.
        linear: Whether convolutions may have no activation.
    """
    dice = random.Random(seed)
    torch.manual_seed(seed)
    channels, size = dice.choice([1, 2, 3]), dice.choice([5, 6, 7, 8])
    shape, layers = (channels, size, size), []
    for _ in range(dice.choice([1, 2, 3])):
        if layers and dice.random() < 0.35:
            kernel = dice.choice([2, 3])
            stride, padding = dice.choice([1, 2, kernel]), dice.choice([0, 0, 1])
            part = [nn.AvgPool2d(kernel, stride, padding)]
            filters = channels
        else:
            kernel, stride, padding = dice.choice([1, 2, 3, 4]), dice.choice([1, 1, 2, 3]), dice.choice([0, 0, 1, 2])
            filters = dice.choice([1, 2, 3, 4, 6])
            groups = channels if filters % channels == 0 and dice.random() < 0.25 else 1
            conv = nn.Conv2d(channels, filters, kernel, stride, padding, groups=groups, bias=dice.random() < 0.7)
            part = [conv] if linear and dice.random() < 0.5 else [conv, nn.Tanh()]
        if size + 2 * padding < kernel or padding > kernel // 2 + isinstance(part[0], nn.Conv2d):
            continue
        layers += part
        channels, size = filters, (size + 2 * padding - kernel) // stride + 1
    if not any(isinstance(layer, nn.Conv2d) for layer in layers):
        return None
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, 4)).double(), shape
