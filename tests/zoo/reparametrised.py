"""Weights that are functions of parameters: LoRA, weight and spectral normalisation, pruning."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from zoo.case import Case
from zoo.parts import Classifier, small


class LoRA(nn.Module):
    """A frozen linear layer and a low-rank change of it."""

    def __init__(self, base, rank=2, alpha=4.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.lora_B = nn.Parameter(0.1 * torch.ones(base.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, x):
        return self.base(x) + self.scaling * (x @ self.lora_A.t() @ self.lora_B.t())


class Adapted(Classifier):
    def __init__(self):
        net = small().requires_grad_(False)
        net[3] = LoRA(net[3])
        super().__init__(net)

    def configure_optimizers(self):
        return torch.optim.AdamW(p for p in self.parameters() if p.requires_grad)


class Unfrozen(Classifier):
    """Thaws its first layer after two steps."""

    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 2:
            self.net[0].requires_grad_(True)


class Standardised(nn.Module):
    """Weight standardisation as a parametrisation."""

    def forward(self, weight):
        flat = weight.flatten(1)
        return ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)).view_as(weight)


def changed(change, index=0):
    def build():
        net = small()
        change(net[index])
        return Classifier(net)

    return build


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.3)


def standardised(layer):
    parametrize.register_parametrization(layer, "weight", Standardised())


class PrunesLater(Classifier):
    """Prunes as it goes."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 0:
            pruned(self.net[0])


CASES = [
    Case("LoRA", Adapted),
    Case("thawed on the way", Unfrozen),
    Case("weight_norm by hooks", changed(weight_norm)),
    Case("weight_norm by parametrisation", changed(parametrizations.weight_norm)),
    Case("spectral_norm by hooks", changed(spectral_norm), alone=False),
    Case("spectral_norm by parametrisation", changed(parametrizations.spectral_norm), alone=False),
    Case("orthogonal", changed(parametrizations.orthogonal, 3)),
    Case("weight standardisation", changed(standardised)),
    Case("pruned", changed(pruned)),
]
