# %% [markdown]
# # Read the records with pandas
#
# Each audit is one line of `audit.jsonl` in the log directory: what was found, what was assumed, and everything that is
# needed to run it again. The form of a line is documented by a JSON schema.

# %%
import json
from pathlib import Path

import lightning as L
import torch

from leakage_audit.callbacks import LeakageAudit
from leakage_audit.data import Synthetic
from leakage_audit.models import Variant

# %% tags=["parameters"]
max_steps = 60
every_n_steps = 20
image_size = 32

# %%
torch.manual_seed(0)
audit = LeakageAudit(every_n_steps=every_n_steps, attacks=["rgap", "joint"], samples=2)
trainer = L.Trainer(max_steps=max_steps, callbacks=[audit], accelerator="cpu", enable_progress_bar=False)
trainer.fit(Variant("cnn2_v2", image_size=image_size), Synthetic(train_images=200, image_size=image_size))

# %%
lines = [json.loads(line) for line in Path(audit.folder, "audit.jsonl").read_text().splitlines()]
audits = [line for line in lines if line.get("kind") == "audit"]
print(sorted(audits[0]))

# %% [markdown]
# A row for each image and attack. An attack that did not end by itself says so in `no_result`: such a row is no low
# reading.

# %%
rows = [
    {"step": line["step"], "image": number, "attack": name, "limit": (sample["limit"] or {"psnr": [None]})["psnr"][0]}
    | {"psnr": entry["psnr"][0], "status": sample["status"][0], "no_result": entry["no_result"]}
    for line in audits
    for number, sample in enumerate(line["samples"])
    for name, entry in sample["attacks"].items()
]
try:
    import pandas as pd

    print(pd.DataFrame(rows).set_index(["step", "image", "attack"]).unstack("attack")["psnr"])
except ImportError:
    for row in rows:
        print(row)
