# %% [markdown]
# # Batches: averaging is no protection by itself
#
# A network with a hidden fully connected layer and a rectifier. Its gradient is the *average* over a batch, and the
# images come back all the same: each hidden unit sees its own few of them, which tells them apart.

# %%
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit import attacks, observe, score
from leakage_audit.data import Synthetic
from leakage_audit.runtime import Budget

# %% tags=["parameters"]
batch_sizes = [2, 4, 8]
width = 256
image_size = 32

# %%
data = Synthetic(image_size=image_size)
torch.manual_seed(10)
network = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, width), nn.ReLU(), nn.Linear(width, 10))

# %%
for batch_size in batch_sizes:
    pairs = [data.image_at(i) for i in range(batch_size)]
    images = torch.cat([pair[0].reshape(1, 3, image_size, image_size) for pair in pairs])
    labels = torch.tensor([pair[1] for pair in pairs])
    seen = observe(network, images, labels, loss=F.cross_entropy, mean=0.5)
    found = attacks.Joint()(seen, Budget(seconds=60))
    scores = score(found.images, images)  # matched one to one: the order is unknown to the attacker
    print(f"{batch_size:2} images: best {max(scores.psnr):6.1f} dB, worst {min(scores.psnr):6.1f} dB")
