# %% [markdown]
# # What does a privacy filter let through?
#
# Federated frameworks ship filters that change a client's gradient before it leaves. A filter is any callable from
# gradients to gradients; what it is worth is a number in dB.

# %%
import torch

from leakage_audit.cli import main

# %% tags=["parameters"]
image_size = 16
seconds = 30

# %% [markdown]
# One of our own: the smaller half of each gradient's entries is put to zero. It is written as a file, so that it can be
# named like any other filter.

# %%
from pathlib import Path

Path("my_filter.py").write_text(
    """
def keep_large(gradients):
    return {name: g.masked_fill(g.abs() < g.abs().median(), 0) for name, g in gradients.items()}
"""
)

# %% [markdown]
# `limit` is what the gradient determines once it has gone through, `attack` what our best attack got back; a guess is
# beside them. A filter whose error is no noise has no limit that could be relied on: it is an "at least".

# %%
import sys

sys.path.insert(0, ".")
torch.manual_seed(0)
where = f"--network cnn2_v2 --data synthetic --indices 3 --image_size {image_size} --seconds {seconds}"
main(f"filter my_filter.keep_large {where}".split())
