"""Pictures and small networks for the tests of the limit."""

import torch
import torch.nn.functional as F
from cases import smooth_picture
from torch import nn


def batch(count=1, size=8):
    """Soft pictures with an edge, none like the other."""
    base = smooth_picture(size)
    images = torch.cat([(base.roll(i, 3) + 0.05 * i * base.flip(2)).clamp(0, 1) for i in range(count)])
    return images.double(), torch.arange(count) % 4


class Attention(nn.Module):
    """One fused attention over the pixels' rows."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(24, 8), nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.embed(x.transpose(1, 2).flatten(2))[:, None]
        return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1))


NETWORKS = {
    "strided tanh": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)),
    "rectifiers and max pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 9), nn.ReLU(), nn.Linear(9, 5)
    ),
    "batch statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(36, 5)
    ),
    "hard": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(36, 5)),
    "attention": Attention,
}


def build(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double().train()
