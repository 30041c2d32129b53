# %% [markdown]
# # Attach to a tutorial's module
#
# The module as most tutorials write it, by the other of Lightning's names. Nothing in it knows of the audit; one
# line is added to the Trainer.

# %%
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Accuracy

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.data import Synthetic

# %% tags=["parameters"]
max_steps = 60
every_n_steps = 20
image_size = 32


# %%
class LitClassifier(pl.LightningModule):
    def __init__(self, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()
        size = (image_size - 3) // 2 + 1
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * size**2, 10))
        self.train_acc = Accuracy(task="multiclass", num_classes=10)

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.train_acc(logits, y)
        self.log("train_loss", loss)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


# %% [markdown]
# Any loader does. This one serves drawn images, with their index dropped.

# %%
data = Synthetic(train_images=200, image_size=image_size)
data.setup("fit")
pairs = [data.train_dataloader().dataset[i][:2] for i in range(100)]
loader = DataLoader(pairs, batch_size=10, shuffle=True)

# %%
audit = LeakageAudit(every_n_steps=every_n_steps, samples=1, mean=0.5)  # the loaders' images are less 0.5
trainer = pl.Trainer(max_steps=max_steps, callbacks=[audit], accelerator="cpu", log_every_n_steps=5)
trainer.fit(LitClassifier(), loader)

# %%
for name in ("audit/psnr/joint", "audit/limit", "audit/chance", "audit/c"):
    print(name, audit.latest.metrics.get(name))
