"""A torchvision ResNet-18 on pictures of CIFAR's size: batches as dicts, batch normalisation, a limit on the overhead.

The network is no chain of layers, so that R-GAP and the paper's metric c(M) do not apply to it; attacks that match
gradients do. Single images are audited in eval mode: batch normalisation by its running statistics.

    python examples/resnet18.py
    tensorboard --logdir runs/resnet18 --load_fast=false
"""

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from leakage_audit.attacks import CosineTV
from leakage_audit.callbacks import LeakageAudit
from leakage_audit.data import Synthetic


class Named(Dataset):
    """A data set's pairs as dicts, as many projects have them."""

    def __init__(self, pairs: Dataset) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = self.pairs[index][:2]
        return {"pixel_values": image, "labels": torch.as_tensor(label)}


class Classifier(L.LightningModule):
    """ResNet-18 with the stem that is usual for pictures this small; the loss is an attribute and is found."""

    def __init__(self) -> None:
        super().__init__()
        self.model = resnet18(num_classes=10)
        self.model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.model.maxpool = nn.Identity()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy with smoothed labels."""
        loss = self.criterion(self.model(batch["pixel_values"]), batch["labels"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The usual recipe."""
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)


def main(
    max_steps: int = 20, iterations: int = 300, root: str = "runs/resnet18", max_seconds: float = 60.0
) -> LeakageAudit:
    """Train for a few steps with two audits at most; raise `max_steps` and `iterations` on a GPU."""
    audit = LeakageAudit(
        every_n_steps=10,
        attacks=[CosineTV(iterations=iterations)],
        samples=1,
        max_seconds=max_seconds,
        max_overhead=2.0,
        mean=0.5,  # no datamodule is attached to the trainer, so the normalisation has to be said
        std=1.0,
    )
    data = Synthetic(train_images=320)
    data.setup("fit")
    loader = DataLoader(Named(data.train_dataloader().dataset), batch_size=16, shuffle=True)
    trainer = L.Trainer(max_steps=max_steps, default_root_dir=root, callbacks=[audit], log_every_n_steps=1)
    torch.manual_seed(0)
    trainer.fit(Classifier(), loader)
    return audit


if __name__ == "__main__":
    main()
