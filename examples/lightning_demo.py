"""Two lines on somebody else's training: Lightning's own demo module, made to classify small pictures.

The audit is made, and given to the Trainer; the module knows nothing of it.

    python examples/lightning_demo.py
    tensorboard --logdir runs/lightning_demo --load_fast=false
"""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn

from leakage_audit.callbacks import LeakageAudit  # line one
from leakage_audit.data import Synthetic


class DemoClassifier(BoringModel):
    """Lightning's BoringModel with a small network in place of its layer; the optimiser is the demo's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.Sigmoid(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(8 * 15 * 15, 10)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    val_dataloader = test_dataloader = train_dataloader = None
    validation_step = None


def main(max_steps: int = 60, root: str = "runs/lightning_demo") -> LeakageAudit:
    """Train for a minute, auditing every 20 steps."""
    audit = LeakageAudit(every_n_steps=20, attacks=["rgap", "joint"], max_seconds=20)
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=[audit],  # line two
    )
    torch.manual_seed(0)
    trainer.fit(DemoClassifier(), Synthetic(train_images=600, batch_size=16))
    return audit


if __name__ == "__main__":
    main()
