"""Every example runs at a small size, offline, in a folder of its own; those with cells are notebooks too."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# What stands under `tags=["parameters"]` in each, at a size that a test can afford.
SMALL = {
    "attach_to_a_tutorial": {"max_steps": 2, "every_n_steps": 2, "image_size": 12},
    "batches": {"batch_sizes": [2], "width": 64, "image_size": 12},
    "custom_attack": {"iterations": 3, "image_size": 12},
    "defences_sweep": {"steps": 2, "mechanisms": {"gaussian": [0.1]}},
    "federated_filter": {"image_size": 12, "seconds": 2},
    "first_audit": {"variant": "cnn2_v2", "image_size": 12},
    "learned_prior": {"variant": "cnn2_v2", "image_size": 12},
    "reading_records": {"max_steps": 2, "every_n_steps": 2, "image_size": 12},
    "table3": {"variants": "cnn2_v1,cnn2_v2", "image_size": 12},
    "vision_transformer": {"image_size": 12, "width": 64, "iterations": 2},
}
# The same for the scripts: images of half the size, and the network's last layer with them.
SMALLER = {"train_images=": "image_size=16, train_images="}
SCRIPTS = {
    "lightning_demo": SMALLER | {"15 * 15": "7 * 7"},
    "resnet18": SMALLER,
    "manual_optimisation": SMALLER | {"15 * 15": "7 * 7"},
    "fabric_loop": SMALLER | {'build("cnn2_v2")': 'build("cnn2_v2", image_size=16)'},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`"),
]


def main_of(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    for given, smaller in SCRIPTS[name].items():
        assert text.count(given) == 1, f"{name}: {given}"
        text = text.replace(given, smaller)
    namespace = {"__name__": name}
    exec(compile(text, f"{name}.py", "exec"), namespace)
    return namespace["main"]


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS) | set(SMALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mpl.rc_context():
        mpl.use("Agg")
        yield tmp_path


def shrunk(name):
    """An example's source with its parameters made small, and the names of those that were."""
    text = (EXAMPLES / f"{name}.py").read_text()
    for parameter, value in SMALL[name].items():
        text, changed = re.subn(rf"(?m)^{parameter} = .*$", f"{parameter} = {value!r}", text)
        assert changed == 1, f"{name}: {parameter}"
    return text


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(name, workplace, capsys):
    namespace = {"__name__": name}
    exec(compile(shrunk(name), f"{name}.py", "exec"), namespace)
    assert capsys.readouterr().out.strip()
    if "audit" in namespace and namespace["audit"].latest is not None:
        assert namespace["audit"].latest.skipped is None


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_has_cells(name):
    jupytext = pytest.importorskip("jupytext")
    cells = jupytext.read(EXAMPLES / f"{name}.py", fmt="py:percent").cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert any("parameters" in cell.metadata.get("tags", []) for cell in cells)


def test_lightning_demo(tmp_path):
    audit = main_of("lightning_demo")(max_steps=1, root=tmp_path)
    assert audit.latest.skipped is None
    assert audit.latest.metrics["audit/psnr/rgap"] > audit.latest.metrics["audit/chance"]


def test_resnet18(tmp_path):
    audit = main_of("resnet18")(max_steps=1, iterations=2, root=tmp_path, max_seconds=8)
    assert audit.latest.skipped is None
    assert "audit/c" not in audit.latest.metrics
    assert "before it converged" in audit.latest.no_results["cosine_tv"][1]  # two steps are no result


def test_manual_optimisation(tmp_path):
    gate = main_of("manual_optimisation")(max_steps=2, root=tmp_path)
    assert gate.verdict in ("passed", "exceeded")


def test_fabric_loop(tmp_path):
    watch = main_of("fabric_loop")(max_steps=1, root=tmp_path)
    assert watch.audit.latest.skipped is None
    assert (tmp_path / "report.html").is_file()
