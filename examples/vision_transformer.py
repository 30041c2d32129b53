# %% [markdown]
# # A vision transformer gives its image away in closed form
#
# torchvision's ViT, small. No convolution here can be inverted and no layer has as many equations as unknowns; what
# leaks is the *position embedding*. It is added to the tokens, so its gradient is the derivative with respect to every
# token, and the patch embedding's gradient, a sum over the patches, then becomes linear in the patches.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer

from leakage_audit import attacks, observe, score
from leakage_audit.data import Synthetic

# %% tags=["parameters"]
image_size = 32
width = 128
blocks = 2
iterations = 100

# %%
torch.manual_seed(10)
model = VisionTransformer(image_size, 4, blocks, 4, width, 2 * width, num_classes=10)
nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision's begins at zero, where nothing below has a gradient
image, label, _ = Synthetic(image_size=image_size).image_at(3)
seen = observe(model.eval(), image, label, loss=F.cross_entropy, mean=0.5)

# %% [markdown]
# Every patch has 4 · 4 · 3 = 48 unknowns. A width of at least 48 determines them; below, the prior must help.

# %%
found = attacks.Joint()(seen)
print(f"{score(found.images, image).psnr[0]:.1f} dB in {found.seconds:.1f} s: {found.ended}")

# %% [markdown]
# A search with the gradient's direction alone, as most published attacks make it, sees little of that in its first
# steps. It is no measure of what leaks: it has not converged, so it has no result.

# %%
searched = attacks.CosineTV(iterations=iterations)(seen)
print(f"search: {score(searched.images, image).psnr[0]:.1f} dB, converged: {searched.converged}")

# %%
figure, axes = plt.subplots(1, 3)
pictures = {"truth": image, "joint": found.images, "search, cut short": searched.images}
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture.squeeze(0).clamp(0, 1).permute(1, 2, 0).numpy())
    axis.set_title(name)
    axis.axis("off")
figure.savefig("vision_transformer.png")
