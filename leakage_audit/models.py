"""The paper's CNN variants: one table of numbers, one builder, one LightningModule."""

from collections import OrderedDict

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

VARIANTS: dict[str, tuple[tuple[int, int, int, int, int], ...]] = {
    # one entry a convolution, from the image up: (channels in, channels out, kernel, stride, padding)
    "cnn2_v1": ((3, 6, 3, 1, 0),),
    "cnn2_v2": ((3, 6, 4, 2, 0),),
    "cnn3_v1": ((3, 6, 3, 1, 0), (6, 3, 4, 2, 0)),
    "cnn3_v2": ((3, 6, 4, 2, 0), (6, 3, 3, 2, 0)),
    "cnn3_v3": ((3, 6, 3, 1, 0), (6, 9, 3, 1, 0)),
    "cnn3_v4": ((3, 1, 3, 1, 0), (1, 6, 3, 1, 0)),
    "cnn4_v1": ((3, 6, 3, 1, 0), (6, 5, 4, 2, 0), (5, 3, 4, 1, 0)),
    "cnn4_v2": ((3, 16, 5, 1, 0), (16, 6, 5, 2, 0), (6, 32, 5, 1, 2)),
}


def build(variant: str, num_classes: int = 10, image_size: int = 32) -> nn.Sequential:
    """Build a variant: convolutions without bias, each with a tanh, then one fully connected layer with bias.

    Weights are drawn from torch's global stream in the order of the layers, so `torch.manual_seed` right before
    determines the network.

    Args:
        variant: A name of `VARIANTS`.
        num_classes: Number of class scores.
        image_size: Height and width of the (square, three-channel) images.

    Raises:
        ValueError: If there is no such variant, fewer than two classes, or the image is too small for the layers.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, size = 3, image_size
    for i, (inputs, channels, kernel, stride, padding) in enumerate(VARIANTS[variant], start=1):
        size = (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            raise ValueError(f"images of {image_size} × {image_size} are too small for {variant}'s convolution {i}")
        layers[f"conv{i}"] = nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False)
        layers[f"tanh{i}"] = nn.Tanh()
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * size * size, num_classes)
    return nn.Sequential(layers)


class Variant(L.LightningModule):
    """A variant as a LightningModule: cross entropy, accuracy, Adam at 1e-3 unless told otherwise.

    Logs `train/loss`, `train/accuracy`, `val/loss`, `val/accuracy`, `test/loss`, `test/accuracy`.

    Args:
        variant: A name of `VARIANTS`.
        num_classes: Number of class scores.
        image_size: Height and width of the images.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes a learning rate schedule from the optimiser; none by default.
    """

    def __init__(
        self,
        variant: str = "cnn2_v1",
        num_classes: int = 10,
        image_size: int = 32,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.network = build(variant, num_classes, image_size)
        self.variant = variant
        self.num_classes = num_classes
        self._optimizer, self._scheduler = optimizer, scheduler
        self.example_input_array = torch.zeros(1, 3, image_size, image_size)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs `(B, 3, H, W)` to class scores `(B, num_classes)`."""
        return self.network(x)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        scores = self(x)
        loss = F.cross_entropy(scores, y)
        accuracy = multiclass_accuracy(scores.detach(), y, self.num_classes, average="micro")
        every_step = stage == "train"
        self.log(f"{stage}/loss", loss, on_step=every_step, on_epoch=not every_step, prog_bar=every_step)
        self.log(f"{stage}/accuracy", accuracy, on_step=every_step, on_epoch=not every_step)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on held-out images."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on test images."""
        self._step(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer | tuple[list, list]:
        """The optimiser, and the schedule if there is one."""
        optimizer = self._optimizer(self.parameters())
        return optimizer if self._scheduler is None else ([optimizer], [self._scheduler(optimizer)])
