# %% [markdown]
# # A first audit: what one image's gradient gives away
#
# No training yet: a network, an image, its gradient. The attacker gets an `Observation`, which holds the network and
# the gradients, and no image.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from leakage_audit import attacks, observe, score, security_metric
from leakage_audit.data import Synthetic
from leakage_audit.models import build

# %% tags=["parameters"]
variant = "cnn3_v1"
image_size = 32

# %%
data = Synthetic(image_size=image_size)
image, label, _ = data.image_at(3)
torch.manual_seed(10)
model = build(variant, image_size=image_size)
seen = observe(model, image, label, loss=F.cross_entropy, mean=0.5)

# %% [markdown]
# Before any attack, the paper's security metric: which layers determine their input?

# %%
print(security_metric(seen))

# %% [markdown]
# Two attacks: R-GAP solves layer after layer, Joint all layers' systems at once, as equations in the image.

# %%
results = {attack.name: attack(seen) for attack in (attacks.RGAP(), attacks.Joint())}
scores = {name: score(found.images, image) for name, found in results.items()}
for name, found in results.items():
    print(f"{name:6} {scores[name].psnr[0]:6.1f} dB  converged: {found.converged}  {found.seconds:.1f} s")

# %%
figure, axes = plt.subplots(1, 1 + len(results))
pictures = {"truth": image} | {name: found.images for name, found in results.items()}
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.squeeze(0).clamp(0, 1).permute(1, 2, 0).numpy())
    axis.set_title(name)
    axis.axis("off")
figure.savefig("first_audit.png")

# %% [markdown]
# What could anybody get? The limit is a *measure*: it holds the true image, no attack does.

# %%
from leakage_audit.measures.limit import reconstruction_limit

found = reconstruction_limit(seen, image, label)
print(f"limit {found.psnr[0]:.1f} dB, solved to its end: {found.solved}")
