"""What the modules of the zoo share: a network of two layers and the least LightningModule around one."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn


def small(outputs=5, act=nn.Tanh, channels=3, size=8):
    """A convolution and a linear layer."""
    side = size - 2
    return nn.Sequential(nn.Conv2d(channels, 6, 3), act(), nn.Flatten(), nn.Linear(6 * side * side, outputs))


class Classifier(L.LightningModule):
    """The least that public classifiers have in common; the zoo's others override what makes them special."""

    def __init__(self, net=None):
        super().__init__()
        self.net = small() if net is None else net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
