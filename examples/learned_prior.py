# %% [markdown]
# # A learned prior: an attacker who has seen pictures of the same kind
#
# The default prior knows only that images are smooth and their colours go together. One that was fitted to public
# images of the same kind does better, above all where the network leaves much open.

# %%
import torch
import torch.nn.functional as F

from leakage_audit import attacks, observe, score
from leakage_audit.cli import main
from leakage_audit.data import Synthetic
from leakage_audit.models import build

# %% tags=["parameters"]
variant = "cnn3_v4"
image_size = 32
index = 3

# %% [markdown]
# The image to be attacked is left out of what the prior learns from.

# %%
main(f"prior --data synthetic --kind gaussian --exclude {index} --output prior.pt --image_size {image_size}".split())

# %%
image, label, _ = Synthetic(image_size=image_size).image_at(index)
torch.manual_seed(10)
seen = observe(build(variant, image_size=image_size), image, label, loss=F.cross_entropy, mean=0.5)
for attack in (attacks.Joint(), attacks.Joint(prior="prior.pt")):
    print(attack.settings["prior"], f"{score(attack(seen).images, image).psnr[0]:.1f} dB")
