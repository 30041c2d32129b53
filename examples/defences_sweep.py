# %% [markdown]
# # What does a defence cost, and what does it leave?
#
# The same training under every mechanism at every strength: accuracy beside what leaks. Here two mechanisms on drawn
# images; `configs/sweep.yaml` has nine, and the page *What should I do?* their figures on CIFAR-10.

# %%
import csv
from pathlib import Path

import yaml

from leakage_audit.cli import main

# %% tags=["parameters"]
steps = 40
mechanisms = {"gaussian": [0.01, 0.1], "prune": [0.1, 0.01]}

# %%
settings = {"network": "cnn3_v1", "image_size": 16, "steps": steps, "mechanisms": mechanisms, "indices": [3]}
Path("sweep.yaml").write_text(yaml.safe_dump(settings))
main(["sweep", "--config", "sweep.yaml", "--data", "synthetic", "--output", "sweep"])

# %% [markdown]
# Broken off, it goes on where it was: each point is a file, and can be measured again alone from its record.

# %%
(table,) = Path("sweep").glob("*.csv")
for row in csv.DictReader(table.read_text().splitlines()):
    print({name: value[:6] for name, value in row.items() if value})
