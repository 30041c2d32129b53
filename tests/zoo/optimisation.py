"""Every way of stepping: precision, accumulation, clipping, schedules, several optimisers, optimisation by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.parts import Classifier


class OneCycle(Classifier):
    """Two groups with rates of their own, a schedule by step."""

    def configure_optimizers(self):
        groups = [{"params": self.net[0].parameters(), "lr": 0.01}, {"params": self.net[3].parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.01, 0.1], total_steps=10)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Stepping(Classifier):
    """Steps its warm-up in `lr_scheduler_step` and `optimizer_step`, as older code does."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (self.global_step + 1) / 3)
        optimizer.step(closure=optimizer_closure)


class Clips(Classifier):
    """Clips in a way of its own."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        nn.utils.clip_grad_value_(self.parameters(), 0.001)


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()
        self.log("loss", loss)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Pair(Classifier):
    """One backward pass, then two optimisers one after the other."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        body.zero_grad()
        head.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        body.step()
        head.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.Adam(self.net[3].parameters())


class Alternating(Pair):
    """Each optimiser has a forward pass of its own, the second after the first has stepped."""

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()
            self.untoggle_optimizer(optimizer)


class Sharpness(Manual):
    """Sharpness-aware: the gradient of a second pass at weights uphill."""

    def training_step(self, batch, batch_idx):
        optimizer, (x, y) = self.optimizers(), batch
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        moves = [0.5 * p.grad for p in self.parameters()]
        with torch.no_grad():
            for p, move in zip(self.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        with torch.no_grad():
            for p, move in zip(self.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()


class BatchNormWindow(Classifier):
    """Batch normalisation whose statistics move within the window."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.net(self.bn(x))


class Clamps(Classifier):
    """Changes gradients after the backward pass."""

    def on_after_backward(self):
        for p in self.parameters():
            p.grad.clamp_(-0.005, 0.005)


CASES = [
    Case("groups and one cycle", OneCycle),
    Case("optimizer_step of its own", Stepping),
    Case("clipping by the trainer", Classifier, trainer={"gradient_clip_val": 0.01}),
    Case("clipping of its own", Clips),
    Case("accumulation", Classifier, trainer={"accumulate_grad_batches": 2, "max_steps": 2}, alone=False),
    Case("accumulation, batch normalisation", BatchNormWindow, trainer={"accumulate_grad_batches": 2}, alone=False),
    Case("bf16-mixed", Classifier, trainer={"precision": "bf16-mixed"}),
    Case("64-true", Classifier, trainer={"precision": "64-true"}),
    Case("by hand", Manual),
    Case("two optimisers, the first", Pair, alone=False),
    Case("two optimisers, the second", Pair, audit={"optimizer": 1}, alone=False),
    Case("alternating optimisers, the second", Alternating, audit={"optimizer": 1}, alone=False),
    Case("sharpness-aware", Sharpness, refused="differs from the recomputed gradient"),
    Case("gradients changed after backward", Clamps, refused="differs from the recomputed gradient"),
]
