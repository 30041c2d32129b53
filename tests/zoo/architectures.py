"""Architectures in the manner of timm and of papers' repositories."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from zoo.case import Case
from zoo.parts import Classifier


class Timm(nn.Module):
    """timm's interface: forward_features, forward_head, a head that can be exchanged, layer scale."""

    def __init__(self, num_classes=5, width=6):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(3, width, 2, stride=2)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.gamma = nn.Parameter(0.1 * torch.ones(width))
        self.head = nn.Linear(width, num_classes)

    def get_classifier(self):
        return self.head

    def forward_features(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        return x + self.gamma * self.mlp(self.norm(x))

    def forward_head(self, x, pre_logits=False):
        x = x.mean((1, 2))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Residual(nn.Module):
    """Two residual blocks, squeeze and excitation, group normalisation."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(2, width)) for _ in range(2)
        )
        self.squeeze, self.excite = nn.Linear(width, 2), nn.Linear(2, width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            y = block(x)
            gate = torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3))))))
            x = F.silu(x + y * gate[:, :, None, None])
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Depthwise separable convolutions, clipped activations in place."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(inplace=True),
            nn.Conv2d(8, 12, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 5))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.GRU(24, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        out, _ = self.rnn(x.permute(0, 2, 1, 3).flatten(2))
        return self.fc(out[:, -1])


class Checkpointed(nn.Module):
    """Computes its first part again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh()), nn.Linear(216, 5)

    def forward(self, x):
        return self.last(checkpoint(self.first, x, use_reentrant=False).flatten(1))


class Patches(nn.Module):
    """A mixer without attention, positions by an embedding with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(3, 6, 4, stride=4)
        self.positions = nn.Embedding(4, 6, sparse=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.project(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions(torch.arange(tokens.shape[1], device=x.device))
        return self.head(torch.tanh(tokens).mean(1))


class Sparse(Classifier):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Backwards(Classifier):
    """The head is defined before the body."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.head, self.body = nn.Linear(7, 5), nn.Linear(216, 7)
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(torch.tanh(self.conv(x)).flatten(1))))


class Ensemble(Classifier):
    """Averages the scores of three members."""

    def __init__(self):
        super().__init__(nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)) for _ in range(3)))

    def forward(self, x):
        return torch.stack([torch.tanh(member(x)) for member in self.net]).mean(0)


class Experts(Classifier):
    """Routes each image to one of two experts."""

    def __init__(self):
        super().__init__(nn.ModuleList(nn.Linear(192, 5) for _ in range(2)))
        self.router = nn.Linear(192, 2)

    def forward(self, x):
        flat = x.flatten(1)
        gates = self.router(flat).softmax(1)
        best = gates.argmax(1)
        out = x.new_zeros(len(x), 5)
        for i, expert in enumerate(self.net):
            rows = best == i
            out[rows] = gates[rows, i, None] * torch.tanh(expert(flat[rows]))
        return out


class LastChannels(Classifier):
    """Works in the memory format of channels last."""

    def forward(self, x):
        return self.net(x.contiguous(memory_format=torch.channels_last))


CASES = [
    Case("timm's interface", lambda: Classifier(Timm())),
    Case("residual, squeeze and excitation", lambda: Classifier(Residual())),
    Case("mobile", lambda: Classifier(Mobile()), alone=False),
    Case("recurrent", lambda: Classifier(Rows())),
    Case("checkpointed", lambda: Classifier(Checkpointed())),
    Case("sparse gradients", lambda: Sparse(Patches())),
    Case("head before body", Backwards, chain=True),
    Case("ensemble", Ensemble),
    Case("experts", Experts),
    Case("channels last", LastChannels),
]
