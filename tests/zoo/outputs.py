"""Modules whose forward returns more than a tensor of scores."""

from collections import OrderedDict, namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.data import as_dicts
from zoo.parts import Classifier

GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", ["logits", "aux_logits2", "aux_logits1"])


class ModelOutput(OrderedDict):
    """A dict with attributes that leaves out what is None, as Hugging Face's."""

    def __init__(self, **fields):
        super().__init__((k, v) for k, v in fields.items() if v is not None)

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class ForImageClassification(nn.Module):
    """A Hugging-Face-like classifier: computes its own loss if it is told the labels."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Conv2d(3, 6, 3)
        self.classifier = nn.Linear(6, 5)

    def forward(self, pixel_values=None, labels=None, return_dict=True):
        hidden = torch.tanh(self.embeddings(pixel_values))
        logits = self.classifier(hidden.mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ModelOutput(loss=loss, logits=logits, hidden_states=hidden)


class HuggingFace(Classifier):
    """Takes the scores out itself."""

    def __init__(self):
        super().__init__(ForImageClassification())

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["pixel_values"]).logits, batch["labels"])


class HuggingFaceLoss(HuggingFace):
    """Lets the model compute the loss."""

    def forward(self, pixel_values, labels=None):
        return self.net(pixel_values=pixel_values, labels=labels)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss


class Tells(Classifier):
    """Returns scores and features in some container."""

    def __init__(self, container, pick):
        super().__init__()
        self.container, self.pick = container, pick

    def forward(self, x):
        features = torch.tanh(self.net[0](x)).flatten(1)
        return self.container(self.net[3](features), features)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.pick(self(batch[0])), batch[1])


def scores_first(scores, features):
    return scores, features


def features_first(scores, features):
    return features, scores


def as_logits(scores, features):
    return {"features": features, "logits": scores}


def as_pred(scores, features):
    return {"feats": features, "pred": scores}


def first(outputs):
    return outputs[0]


def second(outputs):
    return outputs[1]


def by_logits(outputs):
    return outputs["logits"]


def by_pred(outputs):
    return outputs["pred"]


class GoogLeNet(Classifier):
    """Two auxiliary heads while it trains, one tensor of scores afterwards."""

    aux_weight = 0.0

    def __init__(self):
        super().__init__()
        self.aux1, self.aux2 = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.tanh(self.net[0](x))
        scores, pooled = self.net[3](x.flatten(1)), x.mean((2, 3))
        return GoogLeNetOutputs(scores, self.aux2(pooled), self.aux1(pooled)) if self.training else scores

    def training_step(self, batch, batch_idx):
        x, y = batch
        outputs = self(x)
        loss = F.cross_entropy(outputs.logits, y)
        if self.aux_weight:
            loss = loss + self.aux_weight * F.cross_entropy(outputs.aux_logits1, y)
            loss = loss + self.aux_weight * F.cross_entropy(outputs.aux_logits2, y)
        return loss


class Auxiliary(GoogLeNet):
    aux_weight = 0.3


class FullyConvolutional(Classifier):
    """Scores of shape (B, classes, 1, 1), flattened in the step."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 5, 6)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]).flatten(1), batch[1])


def googlenet_loss(outputs, labels):
    """The loss of `Auxiliary`, for outputs in training mode and in eval mode."""
    if isinstance(outputs, torch.Tensor):
        return F.cross_entropy(outputs, labels)
    main, *others = (F.cross_entropy(scores, labels) for scores in outputs)
    return main + 0.3 * sum(others)


CASES = [
    Case("Hugging Face, .logits", HuggingFace, as_dicts("pixel_values", "labels")),
    Case("Hugging Face, its own loss", HuggingFaceLoss, as_dicts("pixel_values", "labels")),
    Case("tuple, scores first", lambda: Tells(scores_first, first)),
    Case("tuple, features first", lambda: Tells(features_first, second)),
    Case("dict with logits", lambda: Tells(as_logits, by_logits)),
    Case("dict with pred", lambda: Tells(as_pred, by_pred)),
    Case("GoogLeNet, main head", GoogLeNet),
    Case(
        "GoogLeNet, auxiliary losses",
        Auxiliary,
        refused="outside the|another term of the loss.*`loss`|auxiliary.*`loss`",
        cure={"loss": googlenet_loss},
        alone=False,
    ),
    Case("fully convolutional", FullyConvolutional),
]
