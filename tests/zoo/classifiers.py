"""Classifiers as the templates and tutorials have them."""

from functools import partial

import lightning as L
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from zoo.case import Case
from zoo.data import as_dicts, grey
from zoo.parts import Classifier, small


class Template(L.LightningModule):
    """The Hydra template: network, optimiser and scheduler come from outside, every number goes through a metric."""

    def __init__(self, net, optimizer, scheduler):
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc, self.val_acc_best = MulticlassAccuracy(5), MaxMetric()
        self.train_loss = MeanMetric()

    def forward(self, x):
        return self.net(x)

    def on_train_start(self):
        self.val_acc_best.reset()

    def model_step(self, batch):
        x, y = batch
        logits = self.forward(x)
        return self.criterion(logits, y), torch.argmax(logits, dim=1), y

    def training_step(self, batch, batch_idx):
        loss, preds, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
        scheduler = self.hparams.scheduler(optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train/loss"}}


class Digits(L.LightningModule):
    """The first tutorial: a perceptron with log-probabilities."""

    def __init__(self, hidden_size=16, learning_rate=2e-3):
        super().__init__()
        self.hidden_size, self.learning_rate = hidden_size, learning_rate
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden_size), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden_size, 5)
        )
        self.accuracy = MulticlassAccuracy(5)

    def forward(self, x):
        return F.log_softmax(self.model(x), dim=1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.nll_loss(self(x), y)
        self.accuracy(loss.new_zeros(len(y), 5), y)
        self.log("train_acc", self.accuracy, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Backbone(L.LightningModule):
    """No forward: the steps call the one network by its name."""

    def __init__(self):
        super().__init__()
        self.model = small()
        self.example_input_array = torch.zeros(1, 3, 8, 8)

    def _shared_step(self, batch, stage):
        scores = self.model(batch["image"])
        loss = F.cross_entropy(scores, batch["label"])
        self.log_dict({f"{stage}/loss": loss, f"{stage}/confidence": scores.softmax(1).amax(1).mean()})
        return {"loss": loss, "preds": scores.argmax(1), "targets": batch["label"]}

    def training_step(self, batch, batch_idx):
        return self._shared_step(batch, "train")

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Transfer(L.LightningModule):
    """The transfer learning tutorial: frozen features without gradients, a head that learns."""

    def __init__(self):
        super().__init__()
        self.feature_extractor = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh())
        self.classifier = nn.Linear(6 * 36, 5)

    def forward(self, x):
        self.feature_extractor.eval()
        with torch.no_grad():
            representations = self.feature_extractor(x).flatten(1)
        return self.classifier(representations)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.classifier.parameters())


class Collects(Classifier):
    """Keeps its steps' losses for the end of the epoch, as the migration guide to Lightning 2 says."""

    def __init__(self):
        super().__init__()
        self.training_step_outputs = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.training_step_outputs.append(loss)
        return loss

    def on_train_epoch_end(self):
        self.log("train/epoch_average", torch.stack(self.training_step_outputs).mean())
        self.training_step_outputs.clear()


class Plateau(Classifier):
    """Lowers its rate when the loss that it logs stops falling."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        settings = {"scheduler": scheduler, "monitor": "train_loss", "interval": "step", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": settings}


def template():
    return Template(
        small(), partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=10)
    )


def shufflenet():
    return Classifier(torchvision.models.ShuffleNetV2([1, 1, 1], [4, 8, 8, 8, 16], num_classes=5))


def vision_transformer():
    return Classifier(torchvision.models.VisionTransformer(8, 4, 1, 2, 8, 16, dropout=0.1, num_classes=5))


CASES = [
    Case("plain", Classifier, chain=True),
    Case("plain, the step's own gradient", Classifier, audit={"gradient": "step"}, alone=False),
    Case("Hydra template with MeanMetric", template),
    Case("digits with log-probabilities", Digits, grey, alone=False),
    Case("no forward, dict batches, dict result", Backbone, as_dicts("image", "label")),
    Case("transfer learning", Transfer),
    Case("training_step_outputs", Collects, trainer={"max_epochs": 2, "max_steps": -1, "limit_train_batches": 2}),
    Case("plateau", Plateau),
    Case("torchvision's ShuffleNet", shufflenet, alone=False),
    Case("torchvision's ViT", vision_transformer, alone=False),
]
