"""Modules whose forward asks for more than images."""

import torch.nn.functional as F

from zoo.case import Case
from zoo.data import as_dicts
from zoo.parts import Classifier


class WantsLabels(Classifier):
    """forward(x, y) is the loss."""

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        return self(*batch)


class WantsBatch(Classifier):
    """Forward takes the whole batch apart."""

    def forward(self, batch):
        return self.net(batch["image"])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch["label"])


class OptionalMask(Classifier):
    def forward(self, x, mask=None, return_features=False):
        x = x if mask is None else x * mask
        features = self.net[:-1](x)
        return features if return_features else self.net[-1](features)


class ReturnsItsLabels(Classifier):
    """Hands the labels through, as code does that was written for several stages."""

    def forward(self, x, y=None):
        return self.net(x), y

    def training_step(self, batch, batch_idx):
        scores, y = self(*batch)
        return F.cross_entropy(scores, y)


CASES = [
    Case("forward(x, y)", WantsLabels),
    Case("forward(batch)", WantsBatch, as_dicts("image", "label")),
    Case("forward with options", OptionalMask),
    Case("forward hands the labels through", ReturnsItsLabels),
]
