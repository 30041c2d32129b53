"""Every command and every piece of code in the README is run, at a size that a test can afford."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from sources import SmallCIFAR10

from leakage_audit.cli.command_line import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
QUICK = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]
PRIOR = ["--data", "synthetic", "--kind", "gaussian", "--image-size", "16"]
CHEAP = ["--trainer.callbacks.samples=1", "--trainer.callbacks.max_seconds=1"]  # of the audit in the configuration


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def commands(program):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.split()[:1] == [program]]


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:GPU available but not used",
)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder that looks like the repository's top, so that nothing is written into the repository."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", SmallCIFAR10)
    return tmp_path


def test_there_is_something_to_check():
    assert len(commands("leakage-audit")) >= 6
    assert len(blocks("python")) >= 3


@pytest.mark.parametrize("line", commands("leakage-audit"))
def test_a_command_runs(line, workplace, capsys):
    _, command, *options = shlex.split(line, comments=True)
    if command == "fit":
        options = options[:2] + CHEAP + options[2:] + QUICK
        if "--data.download=true" in options:
            options[options.index("--data.download=true")] = "--data.download=false"  # the stand-in is there already
    if command == "report":
        audit = ["--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.attacks=[rgap]"]
        small = ["--data.train_images=40", "--data.image_size=16"]
        assert main(["fit", "--model.variant=cnn2_v2", *small, *audit, *QUICK]) == 0
    if "joint:runs/prior.pt" in line:
        assert main(["prior", *PRIOR, "--output", "runs/prior.pt"]) == 0
    if command == "prior":
        options += PRIOR
    if command == "sweep":
        options += ["--image-size", "8", "--steps", "2", "--indices", "1", "--mechanisms", '{"prune": [0.1]}']
    if command == "filter":
        options += ["--image-size", "8", "--indices", "1"]
    if command == "compare":
        options += ["--seconds", "3", "--image-size", "16"]
    assert main([command, *options]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs(code, workplace):
    small = "enable_progress_bar=False, accelerator='cpu', max_epochs=1, limit_train_batches=1"
    code = code.replace("max_epochs=1", small).replace("n_steps=200", "n_steps=200, samples=1, max_seconds=1")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("line", commands("make"))
def test_a_target_exists(line):
    target = shlex.split(line, comments=True)[1]
    found = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("line", commands("tensorboard"))
def test_the_option_exists(line):
    program = [sys.executable, "-m", "tensorboard.main", "--helpfull"]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    names = [option.partition("=")[0] for option in shlex.split(line) if option.startswith("--")]
    assert all(name in found.stdout for name in names)


def test_every_command_of_the_readme_is_of_a_kind_that_is_tested():
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} == {"make", "leakage-audit", "tensorboard"}


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link and link[0] != "#"]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
