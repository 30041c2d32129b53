"""Loss curves read back from a real fit's logs, against the losses that the fit itself saw."""

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import RandomDataset
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from leakage_audit.figures.curves import read_losses

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Recorder(L.LightningModule):
    """Logs the names of `models.Variant` and remembers what it logged."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        self.train_losses, self.test_losses = {}, {}

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        self.train_losses.setdefault(self.current_epoch, []).append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("val/loss", loss)
        self.test_losses.setdefault(self.current_epoch, []).append(loss.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_losses_of_a_fit_by_epoch(kind, tmp_path):
    logger = kind(tmp_path, name="")
    trainer = L.Trainer(accelerator="cpu", max_epochs=3, logger=logger, log_every_n_steps=1, num_sanity_val_steps=0,
                        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    module = Recorder()
    loader = torch.utils.data.DataLoader(RandomDataset(8, 12), batch_size=3)
    trainer.fit(module, loader, loader)
    for found, seen in zip(read_losses(logger.log_dir), (module.train_losses, module.test_losses), strict=True):
        assert found[0] == [0, 1, 2]
        assert found[1] == pytest.approx([sum(losses) / len(losses) for losses in seen.values()], rel=1e-5)


def test_a_folder_without_logs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} holds neither"):
        read_losses(tmp_path)


def test_a_name_that_was_not_logged_is_named_beside_those_that_were(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,4,1.5\n")
    with pytest.raises(ValueError, match=r"'val/loss' was not logged .* there are train/loss"):
        read_losses(tmp_path)
