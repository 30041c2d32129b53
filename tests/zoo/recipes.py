"""What recipes add to a module: averaged weights, models made late, dicts of metrics, margins, pairs of passes."""

import copy

import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from zoo.case import Case
from zoo.data import BATCH, raw
from zoo.parts import Classifier


class Averages(Classifier):
    """Stochastic weight averaging, by Lightning's callback."""

    def configure_callbacks(self):
        return [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1)]


class EMA(Classifier):
    """An exponential average of the weights, by Lightning's callback."""

    def configure_callbacks(self):
        return [EMAWeightAveraging(decay=0.9)]


class Late(Classifier):
    """Makes its layers in `configure_model`, as large models do."""

    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5))


class MetricsInDict(Classifier):
    """Metric collections of all stages in a ModuleDict."""

    def __init__(self):
        super().__init__()
        found = torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.Accuracy(task="multiclass", num_classes=5),
                "f1": torchmetrics.F1Score(task="multiclass", num_classes=5),
            }
        )
        self.metrics = nn.ModuleDict({f"{stage}_": found.clone(prefix=f"{stage}/") for stage in ("train", "val")})

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.log_dict(self.metrics["train_"](scores, y), on_step=True)
        return F.cross_entropy(scores, y)


class DropPath(nn.Module):
    """Leaves out the residual branch of some images."""

    def __init__(self, inner, rate=0.2):
        super().__init__()
        self.inner, self.rate = inner, rate

    def forward(self, x):
        if not self.training:
            return x + self.inner(x)
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate) / (1 - self.rate)
        return x + keep * self.inner(x)


class Timm(Classifier):
    """Stochastic depth an image, label smoothing, in timm's manner."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            DropPath(nn.Sequential(nn.GELU(), nn.Conv2d(6, 6, 3, 1, 1))),
            nn.Flatten(),
            nn.Linear(216, 5),
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        return self.criterion(self(batch[0]), batch[1])


class Hyper(Classifier):
    """Makes network and optimiser by names among its hyperparameters, as a well-known tutorial does."""

    def __init__(self, model_name="small", model_hparams=None, optimizer_name="SGD", optimizer_hparams=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = {"small": self._small}[model_name](**(model_hparams or {"act": "Tanh"}))
        self.loss_module = nn.CrossEntropyLoss()
        self.example_input_array = torch.zeros((1, 3, 8, 8))

    def _small(self, act):
        return nn.Sequential(nn.Conv2d(3, 6, 3), getattr(nn, act)(), nn.Flatten(), nn.Linear(216, 5))

    def training_step(self, batch, batch_idx):
        imgs, labels = batch
        preds = self.net(imgs)
        loss = self.loss_module(preds, labels)
        acc = (preds.argmax(dim=-1) == labels).float().mean()
        self.log("train_acc", acc, on_step=False, on_epoch=True)
        self.log("train_loss", loss)
        return loss


class WithPaths(Classifier):
    """Batches of images, labels and file names."""

    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        return F.cross_entropy(self(x), y)


class Toggled(Classifier):
    """Two optimisers by hand, toggled, on one loss each: body and head in turn."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            loss = F.cross_entropy(self(x), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=10.0, gradient_clip_algorithm="norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.Adam(self.net[3].parameters(), 0.01)]


class Margin(Classifier):
    """ArcFace: a margin at the right class's angle, so that the scores depend on the labels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten())
        self.centres = nn.Parameter(torch.randn(5, 216))
        self.net = None

    def forward(self, x):
        return F.normalize(self.body(x)) @ F.normalize(self.centres).T

    def training_step(self, batch, batch_idx):
        x, y = batch
        margin = 0.3 * F.one_hot(y, 5)
        return F.cross_entropy(10 * (self(x).clamp(-0.99, 0.99).acos() + margin).cos(), y)


class RDrop(Classifier):
    """Two passes with different dropout masks, held together by a divergence."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(216, 5))

    def training_step(self, batch, batch_idx):
        x, y = batch
        one, two = self(x), self(x)
        apart = F.kl_div(one.log_softmax(1), two.softmax(1), reduction="batchmean")
        return F.cross_entropy(one, y) + F.cross_entropy(two, y) + apart


class Contrastive(Classifier):
    """Supervised contrastive: no class scores at all."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        y = y % 2
        z = F.normalize(self(x))
        same = (y[:, None] == y[None]).float() - torch.eye(len(y))
        near = (z @ z.T / 0.1 - 1e9 * torch.eye(len(y))).log_softmax(1)
        return -(same * near).sum(1).div(same.sum(1).clamp(min=1)).mean()


class PolicyGradient(L.LightningModule):
    """Learns by trial from states, no images; by hand, with its own buffer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.target_net = copy.deepcopy(self.net)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        states, actions, rewards = batch
        q = self.net(states).gather(1, actions[:, None])[:, 0]
        with torch.no_grad():
            best = rewards + 0.9 * self.target_net(states).max(1)[0]
        self.optimizers().zero_grad()
        self.manual_backward(F.mse_loss(q, best))
        self.optimizers().step()
        self.target_net.load_state_dict(self.net.state_dict())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Pixels(L.LightningModule):
    """Segmentation from batches that are dicts, with a sum of two losses."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        scores = self(batch["image"])
        dice = 1 - (scores.softmax(1)[:, 1] * batch["mask"]).mean()
        return F.cross_entropy(scores, batch["mask"]) + dice

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Graph(L.LightningModule):
    """A graph network on nodes and edges in one object."""

    def __init__(self):
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, nodes, adjacency):
        return adjacency @ self.lin2(torch.relu(adjacency @ self.lin1(nodes)))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"], batch["adj"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def _loader(rows, **settings):
    return lambda: DataLoader(rows(), **({"batch_size": BATCH} | settings))


def with_paths():
    x, y = raw()
    return [(a, b, f"folder/{i}.png") for i, (a, b) in enumerate(zip(x, y, strict=True))]


def masks():
    x, _ = raw()
    return [{"image": a, "mask": (a[0] > 0.5).long()} for a in x]


def states():
    return [(torch.rand(4), torch.tensor(i % 2), torch.rand(())) for i in range(24)]


def graphs():
    one = {"x": torch.rand(7, 6), "adj": torch.eye(7), "y": torch.arange(7) % 3}
    return [one] * 6


CASES = [
    Case("stochastic weight averaging", Averages, trainer={"max_steps": -1, "max_epochs": 2}),
    Case("EMA by callback", EMA),
    Case("configure_model", Late),
    Case("metric collections in a ModuleDict", MetricsInDict),
    Case("stochastic depth and label smoothing", Timm, alone=False),
    Case("network by name of hyperparameters", Hyper),
    Case("images, labels and file names", WithPaths, _loader(with_paths)),
    Case("toggled optimisers, the first", Toggled, alone=False),
    Case("toggled optimisers, the second", Toggled, audit={"optimizer": 1}),
    Case("margin at the right class", Margin, refused=r"images or scores are changed.*`loss`"),
    Case("two passes with dropout", RDrop, refused=r"several losses.*`loss`"),
    Case("supervised contrastive", Contrastive, refused=r"no loss of torch.nn.functional.*`loss`"),
    Case("policy by trial", PolicyGradient, _loader(states), refused="no floating-point images.*`unpack`"),
    Case("segmentation, dicts", Pixels, _loader(masks), refused="no integer labels.*`unpack`"),
    Case("graph", Graph, _loader(graphs, batch_size=None), refused="no floating-point images.*`unpack`"),
]
