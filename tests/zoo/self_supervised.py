"""Self-supervised and generative modules: they classify nothing, and must be told so in one sentence."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from zoo.case import Case
from zoo.data import loader, raw, two_views
from zoo.parts import Classifier, small

REASON = r"(views|self-supervised|class|labels|images|outside|differs).*`(unpack|loss|forward)`"


class SimCLR(Classifier):
    """Two views of each image, lightly's module in short."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten())
        self.projection_head = nn.Sequential(nn.Linear(216, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x):
        return self.projection_head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        (x0, x1), _ = batch
        z = F.normalize(torch.cat([self(x0), self(x1)]), dim=1)
        similarity = (z @ z.t() / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        partner = torch.arange(len(z)).roll(len(x0))
        loss = F.cross_entropy(similarity, partner)
        self.log("train_loss_ssl", loss)
        return loss


class BYOL(SimCLR):
    """A slow copy of the network gives the target."""

    def __init__(self):
        super().__init__()
        self.momentum = copy.deepcopy(self.backbone).requires_grad_(False)
        self.slow_head = copy.deepcopy(self.projection_head).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        (x0, x1), _ = batch
        with torch.no_grad():
            target = self.slow_head(self.momentum(x1))
        for fast, slow in zip(self.backbone.parameters(), self.momentum.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.01)
        return -F.cosine_similarity(self(x0), target).mean()


class Rotations(Classifier):
    """Predicts by how much an image was turned; makes its labels itself."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        turns = torch.randint(0, 4, (len(x),))
        turned = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, turns, strict=True)])
        return F.cross_entropy(self(turned), turns)


class Masked(Classifier):
    """Restores pixels that were masked."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 3, 3, padding=1)))

    def training_step(self, batch, batch_idx):
        x = batch[0]
        mask = (torch.rand(len(x), 1, 8, 8) > 0.5).float()
        return ((self(x * mask) - x).square() * (1 - mask)).mean()


class Triplet(Classifier):
    """Learns distances between images."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        anchor, positive, negative = self(x), self(x.flip(-1)), self(x.flip(0))
        return F.triplet_margin_loss(anchor, positive, negative)


class Variational(Classifier):
    """Returns the image, the mean and the logarithm of the variance."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
        self.decoder = nn.Linear(4, 192)

    def forward(self, x):
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        return torch.sigmoid(self.decoder(z)).view_as(x), mu, log_var

    def training_step(self, batch, batch_idx):
        x, _ = batch
        again, mu, log_var = self(x)
        kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).mean()
        return F.mse_loss(again, x) + 0.1 * kl


class GAN(Classifier):
    """Generator and discriminator, two optimisers by hand; forward makes images of noise."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
        self.discriminator = small(1)

    def forward(self, z):
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_opt, d_opt = self.optimizers()
        z = torch.randn(len(real), 4)
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        self.toggle_optimizer(g_opt)
        g_loss = F.binary_cross_entropy_with_logits(self.discriminator(self(z)), ones)
        g_opt.zero_grad()
        self.manual_backward(g_loss)
        g_opt.step()
        self.untoggle_optimizer(g_opt)
        self.toggle_optimizer(d_opt)
        d_loss = F.binary_cross_entropy_with_logits(self.discriminator(real), ones)
        d_loss = d_loss + F.binary_cross_entropy_with_logits(self.discriminator(self(z).detach()), zeros)
        d_opt.zero_grad()
        self.manual_backward(d_loss)
        d_opt.step()
        self.untoggle_optimizer(d_opt)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.discriminator.parameters())


CASES = [
    Case("SimCLR", SimCLR, two_views, refused="self-supervised.*`unpack`"),
    Case("BYOL", BYOL, two_views, refused="self-supervised.*`unpack`"),
    Case("rotations", Rotations, refused="targets .* not in the batch: self-supervised.*`unpack`"),
    Case("masked autoencoder", Masked, refused="self-supervised.*`unpack`"),
    Case("triplet loss", Triplet, refused="self-supervised.*`unpack`"),
    Case("variational autoencoder", Variational, refused=REASON),
    Case("GAN, the generator", GAN, refused=REASON),
    Case("GAN, the discriminator", GAN, audit={"optimizer": 1, "forward": "discriminator"}, refused=REASON),
    Case("images without labels", Masked, lambda: loader(raw()[0]), refused=REASON),
]
