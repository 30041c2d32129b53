"""Modules that hold what cannot be copied, or should not be."""

import threading
from collections import deque

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from zoo.case import Case
from zoo.data import raw
from zoo.parts import Classifier


class KeepsScores(Classifier):
    """Keeps its last scores for a look at the end of the epoch."""

    def __init__(self):
        super().__init__()
        self.activations = {}

    def forward(self, x):
        self.activations["features"] = self.net[:3](x)
        self.last = self.net[3](self.activations["features"])
        return self.last


class KeepsByHook(Classifier):
    """Keeps features by a forward hook, as Grad-CAM's recipes do."""

    def __init__(self):
        super().__init__()
        self.features = []
        self.net[0].register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.features.append(output)


class MeanLoss(Classifier):
    """A mean metric that is handed the loss with its graph."""

    def __init__(self):
        super().__init__()
        self.mean_loss = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.mean_loss.update(loss)
        self.log("loss", self.mean_loss)
        return loss


class Metrics(Classifier):
    """A collection of metrics, updated with what has a graph."""

    def __init__(self):
        super().__init__()
        scores = {"acc": MulticlassAccuracy(5), "f1": MulticlassF1Score(5)}
        self.metrics = MetricCollection(scores, prefix="train/")

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.log_dict(self.metrics(scores.softmax(1), y), on_step=True, on_epoch=True)
        return F.cross_entropy(scores, y)


class Uncopiable(Classifier):
    """Uses a lock, a running generator and a lambda in its step."""

    def __init__(self):
        super().__init__()
        self.lock, self.stream = threading.Lock(), (x for x in range(100))
        self.act = lambda x: torch.tanh(x)
        self.queue = deque(maxlen=3)

    def training_step(self, batch, batch_idx):
        with self.lock:
            self.queue.append(next(self.stream))
        x, y = batch
        return F.cross_entropy(self(self.act(x)), y)

    def forward(self, x):
        return self.net(x)


class Locks(Classifier):
    """What cannot be copied, and a step that needs nothing of it."""

    def __init__(self):
        super().__init__()
        self.lock, self.stream = threading.RLock(), (x for x in range(100))


class Holds(Classifier):
    """Holds its data, and its optimiser."""

    def __init__(self):
        super().__init__()
        self.images, self.labels = raw()

    def configure_optimizers(self):
        self.optimizer = torch.optim.Adam(self.parameters())
        return self.optimizer


class Queue(Classifier):
    """A queue of features in a buffer that the step assigns anew, as MoCo's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.randn(5, 8))

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.queue = torch.cat([scores.t(), self.queue], 1)[:, :8].detach()
        return F.cross_entropy(scores, y)


class Tied(Classifier):
    """One parameter under two names, and a module under two."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.unmix = nn.Conv2d(3, 3, 1)
        self.unmix.weight = self.mix.weight
        self.backbone = self.net

    def forward(self, x):
        return self.backbone(self.unmix(torch.tanh(self.mix(x))))


class Attached(Classifier):
    """A network that hides outside the tree of modules, in a list."""

    def __init__(self):
        super().__init__()
        self.hidden = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return self.net(self.hidden[0](x))

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class GraphAcrossSteps(Classifier):
    """A smoothed loss in which yesterday's graph hangs on a buffer's place."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.smooth = loss if batch_idx == 0 else 0.9 * self.smooth + 0.1 * loss
        self.log("smooth", self.smooth.detach())
        return loss


def activated(core, x):
    return core.net(torch.tanh(x))


class Halves(Classifier):
    """A forward hook that takes part in the computation."""

    def __init__(self):
        super().__init__()
        self.net[0].register_forward_hook(lambda part, args, output: output / 2)


CASES = [
    Case("a forward hook that computes", Halves, refused=r"none of your hooks \(of net.0\)"),
    Case("scores kept with their graph", KeepsScores),
    Case("features kept by a hook", KeepsByHook),
    Case("mean metric of the loss", MeanLoss),
    Case("metric collection", Metrics),
    Case("lock, generator and lambda", Locks),
    Case(
        "activation outside forward",
        Uncopiable,
        refused=r"differs from the recomputed gradient.*`forward`",
        cure={"forward": activated},
    ),
    Case("data and optimiser on the module", Holds),
    Case("queue assigned anew", Queue),
    Case("tied parameters", Tied),
    Case("module outside the tree", Attached),
    Case("smoothed loss with its graph", GraphAcrossSteps),
]
