import json

import pytest
import torch

from leakage_audit import __name__ as package
from leakage_audit.cli import commands
from leakage_audit.cli.command_line import _as_named, _parser, main
from leakage_audit.cli.mistakes import plainest

FAST = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
LOCAL = ["ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:The number of training batches"]
pytestmark = [pytest.mark.filterwarnings(text) for text in [*LOCAL, "ignore:GPU available but not used"]]


def test_help_lists_the_commands(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in ("fit", "inspect", "compare", "report"))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("leakage-audit 0.")


def test_an_unknown_command_is_named(capsys):
    assert main(["atack"]) == 2
    assert "unknown command 'atack'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--limit", "false", "--image-size", "8"], ["--limit", "false", "--image_size", "8"]),
        (["--limit=false"], ["--limit=false"]),
        (["--limit", "--seed", "1"], ["--limit=true", "--seed", "1"]),
        (["--seed", "1", "--limit"], ["--seed", "1", "--limit=true"]),
    ],
)
def test_a_switch_alone_or_with_its_value(given, named):
    assert _as_named(given, commands.compare) == named
    parsed = _parser("compare", commands.compare).parse_args([*named, "--data=x", "--output=y"])
    assert parsed.limit is ("false" not in " ".join(given))


def test_inspect_prints_one_json_object(capsys):
    assert main(["inspect", "--variant", "cnn4_v1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["variant"], found["c"]) == ("cnn4_v1", -2772.0)
    assert [layer["deficiency"] for layer in found["layers"]] == [0, -3965, -386]
    assert [layer["weight"] for layer in found["layers"]] == pytest.approx([1, 2 / 3, 1 / 3])
    assert set(found["layers"][0]) >= {"name", "unknowns", "equations", "rank", "deficiency", "weight", "condition"}


def test_inspect_prints_a_table(capsys):
    assert main(["inspect", "--variant", "cnn3_v1"]) == 0
    assert "c(M) = -2266.5" in capsys.readouterr().out


def test_inspect_takes_any_importable_classifier(capsys):
    assert main(["inspect", "--model", "torchvision.models.resnet18", "--num-classes", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["c"] is None
    assert "bn1" in found["problem"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name either a variant"),
        (["--variant", "cnn3_v1", "--model", "torch.nn.Linear"], "name either a variant"),
        (["--variant", "cnn9"], "'cnn9' is neither one of"),
        (["--model", "nowhere.Net"], "cannot be imported"),
        (["--model", "os.getcwd"], "makes no torch.nn.Module, but an object of str"),
        (["--model", "torch.nn.Linear"], "is not made without arguments"),
        (["--variant", "cnn3_v1", "--input-shape", "3,32"], "channels,height,width"),
        (["--variant", "cnn3_v1", "--input-shape", "3,x,32"], "numbers separated by commas"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(options, message, capsys):
    assert main(["inspect", *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "compare --data synthetic --output OUT --variants cnn2_v2 --mean 1,2",
            "mean has 2 channels where images have",
        ),
        ("compare --data synthetic --output OUT --variants cnn2_v2 --mean nan", "mean must be finite"),
        ("sweep --data synthetic --output OUT --mechanisms {'os.getcwd':[1]}", "is not made from a strength"),
        ("sweep --data synthetic --output OUT --mechanisms {'prune':[]}", "'prune' has no strength"),
        ("sweep --data synthetic --output OUT --devices 0", "devices=0"),
    ],
)
def test_a_mistake_of_other_commands_is_one_line_and_exit_code_2(options, message, tmp_path, capsys):
    assert main(options.replace("OUT", str(tmp_path)).replace("'", '"').split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_compare_names_the_missing_folder(capsys, tmp_path):
    options = ["--variants", "cnn2_v2", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert main(["compare", *options]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fit_takes_any_lightning_module_and_tells_where_the_results_are(capsys, tmp_path):
    model = f"{package}.models.Variant"
    options = ["--model", model, "--model.variant=cnn2_v2", "--data=Synthetic", "--data.train_images=40"]
    options += ["--data.classes=[sea,hills]", "--trainer.max_steps=2", "--data.image_size=16"]
    assert main(["fit", *options, *FAST, f"--trainer.default_root_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"tensorboard --logdir {tmp_path}" in said
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    # The data told the model how many classes there are and how large the images.
    assert weights["network.fc.weight"].shape == (2, 6 * 7 * 7)


def test_a_fit_without_its_images_says_how_to_get_them(capsys, tmp_path):
    options = [
        "--data=CIFAR10",
        f"--data.root={tmp_path}",
        "--trainer.max_steps=1",
        f"--trainer.default_root_dir={tmp_path}",
        *FAST,
    ]
    assert main(["fit", *options]) == 2
    said = capsys.readouterr().err
    assert "--data.download=true" in said
    assert "Traceback" not in said


def test_a_fit_that_leaks_more_than_its_gate_allows_exits_with_code_3(capsys, tmp_path):
    options = ["--model.variant=cnn2_v2", "--data.train_images=40", "--data.image_size=16", "--trainer.max_steps=2"]
    options += ["--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.attacks=[rgap]"]
    gate = ["--trainer.callbacks+=LeakageGate", '--trainer.callbacks.limits={"audit/psnr/*": 1.0}']
    gate += ["--trainer.callbacks.action=fail"]
    assert main(["fit", *options, *gate, *FAST, f"--trainer.default_root_dir={tmp_path}"]) == 3
    assert "audit/psnr/rgap" in capsys.readouterr().err


def test_a_denoiser_is_learned_and_attacks(tmp_path, capsys):
    small = ["--data", "synthetic", "--image-size", "8", "--accelerator", "cpu"]
    file = tmp_path / "new" / "prior.pt"
    learn = ["--epochs", "1", "--width", "4", "--exclude", "1,3", "--output", str(file)]
    assert main(["prior", *small, *learn]) == 0
    assert "noise 0.1: 20.0 dB →" in capsys.readouterr().out
    attack = [
        "--variants",
        "cnn2_v2",
        "--attacks",
        f"joint:{file}",
        "--indices",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["compare", *small, *attack]) == 0
    assert f"joint:{file}" in (tmp_path / "out" / "results.csv").read_text()
    assert main(["prior", *small, *learn, "--seed", "1"]) == 0
    assert main(["compare", *small, *attack]) == 2, "results of one prior must not be mixed with those of another"


@pytest.mark.parametrize(
    ("options", "said"), [(["--kind", "oracle"], "oracle"), (["--kind", "gaussian", "--exclude", "99999"], "99999")]
)
def test_prior_names_the_mistake(options, said, tmp_path, capsys):
    assert main(["prior", "--data", "synthetic", "--output", str(tmp_path / "prior.pt"), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_steps=x"], 'Parser key "trainer.max_steps": Expected'),
        (["--nonsense=1"], "--nonsense=1"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--data.train_images=-3"], "train_images must be at least one for each of 10 classes, got -3"),
        (["--model", "nowhere.Net"], "No module named 'nowhere'"),
        (
            ["--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.every_n_steps=0"],
            "every_n_steps must be at least",
        ),
        (["--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.attacks=[nope]"], "unknown attack 'nope'"),
        (["--data=ImageFolder", "--data.root=/nowhere"], "no such folder: /nowhere"),
        (["--trainer.max_steps=-5"], "You passed in -5"),
        (
            ["--trainer.max_epochs=1", "--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.optimizer=5"],
            "no such optimiser; there are 1",
        ),
        (
            ["--trainer.max_epochs=1", "--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.forward=no.such"],
            "LeakageAudit(forward='no.such')",
        ),
        (["--trainer.callbacks+=LeakageAudit", "--trainer.callbacks.std=0"], "std must be positive, got 0"),
        (["--ckpt_path=pyproject.toml"], "pyproject.toml is no checkpoint"),
    ],
)
def test_a_wrong_value_for_a_fit_is_one_line_and_exit_code_2(options, message, tmp_path, capfd):
    assert main(["fit", *options, *FAST, f"--trainer.default_root_dir={tmp_path}"]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("leakage-audit")]
    assert len(said) == 1
    assert message in said[0]
    assert len(said[0]) < 400


LOGGERS = {
    "alone": "--trainer.logger=unheard_of.Logger",
    "in a list": '--trainer.logger=[{class_path: CSVLogger, init_args: {save_dir: "."}}, {class_path: own.Asks}]',
}


@pytest.mark.parametrize("option", LOGGERS.values(), ids=LOGGERS.keys())
def test_a_logger_whose_package_is_missing_is_refused_with_that_and_the_way_out(option, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n\n\nclass Asks(CSVLogger):\n"
        "    def __init__(self):\n        import unheard_of\n\n        super().__init__('.')\n"
    )
    assert main(["fit", "--trainer.accelerator=cpu", option]) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("leakage-audit")]
    assert "No module named 'unheard_of'" in said
    assert said.count("install the package") == 1
    assert "Not a valid subclass" not in said


def test_a_mistake_without_alternatives_is_said_as_it_is():
    assert plainest(ValueError("one\n  thing")) == "one thing"
    assert plainest(ValueError("unsupported URI 'sqlite:///x'")).endswith(
        "(mlflow-skinny has no databases, install mlflow)"
    )
