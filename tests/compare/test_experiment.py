import pytest
import torch
from doubles import data, experiment
from lightning import Trainer

from leakage_audit.compare import compare
from leakage_audit.compare.subjects import Subject, read_weights
from leakage_audit.models import Variant, build


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"networks": ["cnn9"]}, "neither one of cnn2_v1"),
        ({"networks": []}, "networks must name at least one"),
        ({"networks": ["cnn2_v1", "cnn2_v1"]}, "each once"),
        ({"networks": ["no.such.Network"]}, "cannot be imported"),
        ({"networks": ["torch.nn.Identity"]}, "class scores"),
        ({"networks": ["cnn4_v1"], "source": data(image_size=8)}, "too small for cnn4_v1"),
        ({"attacks": ["magic"]}, "unknown attack 'magic'"),
        ({"attacks": ["cosine_tv:magic"]}, "paper, original, modern"),
        ({"indices": [1, 99999]}, "there is no image 99999"),
        ({"indices": "all"}, "one-per-class"),
        ({"indices": [1, 1]}, "each once"),
        ({"precision": 16}, "32 or 64, got 16"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"scale": 1e-6}, "leaves no iteration of dim's 1000"),
        ({"seconds": 0.0}, "seconds must be positive"),
        ({"std": 0.0}, "std must be positive"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        experiment(**wrong)


def test_networks_are_those_that_the_seed_gives():
    asked = experiment(seed=4)
    torch.manual_seed(4)
    expected = build("cnn2_v2", 10, 12).state_dict()
    found = asked.network("cnn2_v2").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_normalisation_and_precision_reach_the_observation():
    seen, _, _ = experiment(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4], precision=64).observe("cnn2_v1", 1)
    assert seen.dtype == torch.float64
    assert seen.mean == (0.4, 0.5, 0.6)
    assert seen.std == (0.2, 0.3, 0.4)
    assert seen.labels is None


def test_scale_and_seed_reach_every_attack():
    asked = experiment(attacks=["cosine_tv:paper", "hybrid", "rgap"], scale=0.5, seed=3)
    assert asked.attack("cosine_tv:paper").settings["iterations"] == 2400
    assert asked.attack("cosine_tv:paper").settings["seed"] == 3
    assert asked.attack("hybrid").settings["scale"] == 0.5
    assert asked.attack("rgap").name == "rgap"


@pytest.fixture
def checkpoint(tmp_path):
    """A Lightning checkpoint of CNN2 V1 for two classes."""
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    torch.manual_seed(77)
    trainer.strategy.connect(Variant("cnn2_v1", 2, 12))
    path = tmp_path / "two.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_checkpoint_gives_weights_and_classes(checkpoint, tmp_path):
    asked = experiment(networks=["cnn2_v1"], checkpoint=checkpoint)
    found, stored = asked.network("cnn2_v1").state_dict(), read_weights(checkpoint)
    assert all(torch.equal(found[name], stored[f"network.{name}"]) for name in found)
    _, _, label = asked.observe("cnn2_v1", 3)
    assert label == 1  # of class 3; the network knows two
    bare = tmp_path / "bare.pt"
    torch.save(asked.network("cnn2_v1").state_dict(), bare)
    again = Subject("cnn2_v1", 10, 12, 0, bare).build().state_dict()
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_pretrained_rows_follow_the_untrained_ones(checkpoint):
    asked = experiment(networks=["cnn2_v1", "cnn2_v2"], pretrained={"cnn2_v1": checkpoint})
    assert asked.rows == ["cnn2_v1", "cnn2_v2", "cnn2_v1_pretrained"]
    assert asked.network("cnn2_v1").fc.out_features == 10
    assert asked.network("cnn2_v1_pretrained").fc.out_features == 2
    with pytest.raises(ValueError, match="does not fit cnn2_v2"):
        experiment(pretrained={"cnn2_v2": checkpoint})


def test_checkpoint_of_another_network(checkpoint):
    with pytest.raises(
        ValueError, match=r"two.ckpt does not fit cnn2_v2: conv1.weight is \(6, 3, 3, 3\), not \(6, 3, 4, 4\)"
    ):
        experiment(networks=["cnn2_v2"], checkpoint=checkpoint)
    with pytest.raises(ValueError, match=r"conv2.weight is missing"):
        experiment(networks=["cnn3_v1"], checkpoint=checkpoint)


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        experiment(checkpoint=tmp_path / "none.ckpt")
    text, other = tmp_path / "text.ckpt", tmp_path / "other.ckpt"
    text.write_text("no checkpoint")
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ValueError, match="no checkpoint of tensors"):
        experiment(checkpoint=text)
    with pytest.raises(ValueError, match="holds no state dict"):
        experiment(checkpoint=other)


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path):
    compare(experiment(attacks=["dim"]), tmp_path / "mine")
    before = (tmp_path / "mine" / "results.csv").read_text()
    for change in ({"seed": 11}, {"indices": (1,)}, {"scale": 0.5}, {"source": data(seed=5)}):
        with pytest.raises(ValueError, match="holds another experiment"):
            compare(experiment(**{"attacks": ["dim"], **change}), tmp_path / "mine")
    assert (tmp_path / "mine" / "results.csv").read_text() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("cat")
    with pytest.raises(ValueError, match="not empty and holds no experiment"):
        compare(experiment(), tmp_path / "photos")
