# %% [markdown]
# # The paper's Table 3 on your machine
#
# Eight architectures that differ in strides, kernels and channels; each attacked by R-GAP and by Joint, the paper's
# figure beside ours. Here on a drawn image; `make table3 DATA=folder` does it on CIFAR-10, with all attacks.

# %%
import csv
from pathlib import Path

from leakage_audit.cli import main

# %% tags=["parameters"]
variants = "cnn2_v1,cnn2_v2,cnn3_v1,cnn3_v2,cnn3_v3,cnn3_v4,cnn4_v1,cnn4_v2"
attacks = "rgap,joint"
image_size = 32

# %%
where = f"--data synthetic --indices 3 --image_size {image_size} --output table3"
main(f"compare {where} --variants {variants} --attacks {attacks} --limit=false".split())

# %%
rows = list(csv.DictReader(Path("table3/results.csv").read_text().splitlines()))
for row in rows:
    print(f"{row['variant']:10} {row['attack']:6} {float(row['psnr']):6.1f} dB   c(M) = {float(row['c']):8.1f}")

# %% [markdown]
# c(M) = 0 goes with an exact reconstruction layer by layer. Where it is negative Joint still gets more than R-GAP: the
# equations of all layers together leave less open than each layer's own.
