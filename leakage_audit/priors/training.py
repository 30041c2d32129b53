"""Learning a prior from public images: a Gaussian's moments, or a denoiser by a Trainer."""

import math
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.options import Checked
from leakage_audit.priors.denoiser import Denoiser
from leakage_audit.priors.unet import UNet


@dataclass(frozen=True)
class TrainingOptions(Checked):
    """How a denoiser is trained.

    Attributes:
        median: Strength of noise in training, log-normal; the strength used lies 1.5 deviations below.
        deviation: Of its natural logarithm.
        weakest: Least strength: below an image's own grain.
        strongest: Largest strength: an image is lost in it.
        averaged: Share of all steps over which the weights are averaged.
        shift: Pixels that a batch is moved by at most, the border mirrored.
        tested: Strengths that the validation names.
    """

    median: float = 0.1
    deviation: float = 1.3
    weakest: float = 0.004
    strongest: float = 2.0
    averaged: float = 0.03
    shift: int = 4
    tested: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)

    def __post_init__(self) -> None:
        self.check(("median", "deviation", "weakest", "strongest", "tested"), ("shift",), ("averaged",))


class DenoiserTraining(L.LightningModule):
    """Trains a `UNet` to take white noise of any strength off images.

    Logs `train/loss` and, for noise of some strengths on images held out, `val/psnr_<strength>` in dB.

    Args:
        channels: Of an image.
        width: Of the network.
        learning_rate: At its peak; it rises over a twentieth of the steps and falls along a cosine.
        options: Noise, augmentation and averaging.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 96,
        learning_rate: float = 2e-3,
        options: TrainingOptions | None = None,
    ) -> None:
        super().__init__()
        self.network, self.learning_rate = UNet(channels, width), learning_rate
        self.options = options or TrainingOptions()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Squared error of the cleaned images, every strength of noise counting alike (Karras et al. 2022, Table 1)."""
        options, spread = self.options, self.network.spread
        images = _moved(batch[0], options.shift)
        sigma = (math.log(options.median) + options.deviation * torch.randn(len(images), device=images.device)).exp()
        sigma = sigma.clamp(options.weakest, options.strongest)
        noisy = images + sigma[:, None, None, None] * torch.randn_like(images)
        error = (self.network(noisy, sigma) - images).square().mean((1, 2, 3))
        loss = (error * (sigma**2 + spread**2) / (sigma * spread) ** 2).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """PSNR of the cleaned images, the same noise every time."""
        images = batch[0]
        generator = torch.Generator().manual_seed(batch_idx)
        for place, strength in enumerate(self.options.tested):
            noise = torch.randn(images.shape, generator=generator).to(images)
            cleaned = self.network(images + strength * noise, torch.full((len(images),), strength).to(images))
            psnr = -10 * (cleaned - images).square().mean((1, 2, 3)).log10().mean()
            self.log(f"val/psnr_{strength}", psnr, prog_bar=place == 1, batch_size=len(images))

    def configure_optimizers(self) -> dict:  # type: ignore[override]  # Lightning's own type is narrower than its use
        """Adam on one cycle of the learning rate."""
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, betas=(0.9, 0.99))
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learn_denoiser(
    images: Tensor,
    held_out: Tensor,
    epochs: int,
    batch_size: int = 64,
    width: int = 96,
    seed: int = 0,
    options: TrainingOptions | None = None,
    **trainer: object,
) -> tuple[Denoiser, dict[str, float]]:
    """Train a denoiser.

    Args:
        images: Public images `(N, C, H, W)` in [0, 1].
        held_out: Others, to tell how good it is.
        epochs: Passes over the images.
        batch_size: Images a step.
        width: Of the network.
        seed: Of the weights, the order and the noise.
        options: Noise, augmentation and averaging.
        trainer: Further arguments of Lightning's Trainer.

    Returns:
        The prior, and the PSNR in dB on the images held out by strength of noise.

    Raises:
        ValueError: If there are fewer images than one batch takes.
    """
    if len(images) < batch_size or not len(held_out):
        raise ValueError(f"a batch takes {batch_size} images and some to test on, got {len(images)}, {len(held_out)}")
    L.seed_everything(seed, verbose=False)
    training = DenoiserTraining(images.shape[1], width, options=options)
    loader = DataLoader(TensorDataset(images), batch_size, shuffle=True, drop_last=True)
    averaged = max(1.0, training.options.averaged * epochs * len(loader))
    fitter = L.Trainer(
        max_epochs=epochs,
        callbacks=[EMAWeightAveraging(decay=1 - 1 / averaged)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        **trainer,  # type: ignore[arg-type]
    )
    fitter.fit(training, loader, DataLoader(TensorDataset(held_out), batch_size))
    found = {name.removeprefix("val/psnr_"): float(v) for name, v in fitter.callback_metrics.items() if "val" in name}
    return Denoiser(training.network.cpu()), found


def _moved(images: Tensor, shift: int) -> Tensor:
    """Half of them mirrored, all of them shifted by the same few pixels."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    height, width = images.shape[2:]
    down, across = torch.randint(0, 2 * shift + 1, (2,)).tolist()
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    return padded[:, :, down : down + height, across : across + width]
