from pathlib import Path

import pytest
import torchvision
from sources import SmallCIFAR10

from leakage_audit.cli.command_line import main

CONFIGS = Path(__file__).parent.parent / "configs"
FITS = sorted(path.name for path in CONFIGS.glob("*.yaml") if "trainer:" in path.read_text())


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec",
    "ignore:The number of training batches",
    "ignore:Total length of",
)
@pytest.mark.parametrize("config", FITS)
def test_every_config_runs(config, monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", SmallCIFAR10)
    options = ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    options += ["--trainer.callbacks.samples=1", "--trainer.callbacks.max_seconds=1"]
    assert main(["fit", "--config", str(CONFIGS / config), *options, f"--trainer.default_root_dir={tmp_path}"]) == 0
    assert not list(tmp_path.iterdir())  # fast_dev_run writes nothing


def test_no_config_names_a_folder_of_its_own_to_write_to():
    assert not [path.name for path in CONFIGS.glob("*.yaml") if "default_root_dir" in path.read_text()]
