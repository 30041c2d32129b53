"""Manual optimisation: two optimisers, batches accumulated by hand, and a gate on what may leak.

The audit follows the optimiser of the features (`optimizer=0`). What counts as a step is that optimiser's step, not the
batch; what the audit assumed about the gradient it checks against the one that the optimiser gets.

    python examples/manual_optimisation.py
    tensorboard --logdir runs/manual_optimisation --load_fast=false
"""

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakage_audit.callbacks import LeakageAudit, LeakageGate
from leakage_audit.data import Synthetic


class TwoSpeeds(L.LightningModule):
    """Features and classifier learn at their own speeds, every two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.features = nn.Sequential(nn.Conv2d(3, 6, 4, stride=2), nn.Tanh(), nn.Flatten())
        self.classifier = nn.Linear(6 * 15 * 15, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to class scores."""
        return self.classifier(self.features(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Backward every batch, step every second one."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.manual_backward(loss / 2)
        self.log("train/loss", loss, prog_bar=True)
        if batch_idx % 2:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One each."""
        return [torch.optim.AdamW(self.features.parameters(), 1e-3), torch.optim.SGD(self.classifier.parameters(), 0.1)]


def main(max_steps: int = 80, root: str = "runs/manual_optimisation") -> LeakageGate:
    """Train, auditing every 20 steps of the features' optimiser; warn when a picture can be made out."""
    gate = LeakageGate({"audit/psnr/*": 20.0, "audit/c": -1.0}, action="warn")
    trainer = L.Trainer(
        max_steps=max_steps,  # counts the steps of both optimisers
        accelerator="cpu",
        default_root_dir=root,
        callbacks=[LeakageAudit(every_n_steps=20, attacks=["rgap", "joint"], optimizer=0, max_seconds=20), gate],
    )
    torch.manual_seed(0)
    trainer.fit(TwoSpeeds(), Synthetic(train_images=600, batch_size=16))
    return gate


if __name__ == "__main__":
    main()
