"""Every example runs, and its audits take place."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`"),
]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {"lightning_demo", "resnet18", "manual_optimisation", "fabric_loop"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_lightning_demo(tmp_path):
    audit = load("lightning_demo").main(max_steps=1, root=tmp_path)
    assert audit.latest.skipped is None
    assert audit.latest.metrics["audit/psnr/rgap"] > audit.latest.metrics["audit/chance"]


def test_resnet18(tmp_path):
    audit = load("resnet18").main(max_steps=1, iterations=2, root=tmp_path)
    assert audit.latest.skipped is None
    assert "audit/c" not in audit.latest.metrics
    assert "audit/psnr/cosine_tv" in audit.latest.metrics


def test_manual_optimisation(tmp_path):
    gate = load("manual_optimisation").main(max_steps=2, root=tmp_path)
    assert gate.verdict in ("passed", "exceeded")


def test_fabric_loop(tmp_path):
    watch = load("fabric_loop").main(max_steps=1, root=tmp_path)
    assert watch.audit.latest.skipped is None
    assert (tmp_path / "report.html").is_file()
