"""What all data modules share: batches, split, order, indices, the command line."""

import inspect
import pickle

import jsonargparse
import lightning as L
import pytest
import torch
import torchvision
from sources import KINDS, SmallCIFAR10, batches, make

from leakage_audit.data import CIFAR10, ImageFolder, Synthetic
from leakage_audit.models import Variant

few_workers = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", SmallCIFAR10)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_normalised_inputs_and_labels(kind, tmp_path):
    data = make(kind, tmp_path, batch_size=4, mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0], val_share=0.2)
    data.setup("fit")
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.dtype) == ((4, 3, 32, 32), torch.float32, torch.int64)
    images = x * torch.tensor(data.std).view(1, 3, 1, 1) + torch.tensor(data.mean).view(1, 3, 1, 1)
    known = torch.stack([data.image_at(index).image for index in data._train.indices])
    distance = (images[:, None] - known).abs().amax((2, 3, 4))
    assert distance.amin(1).max() < 1e-6
    assert [data._train.labels[i] for i in distance.argmin(1)] == y.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_is_disjoint_complete_and_the_seeds(kind, tmp_path):
    first, again = (make(kind, tmp_path, val_share=0.3, seed=5) for _ in range(2))
    train, held_out = first._split()
    assert (len(train), len(held_out)) == (21, 9)
    assert sorted(train + held_out) == list(range(30))
    assert again._split() == (train, held_out)
    assert make(kind, tmp_path, val_share=0.3, seed=6)._split() != (train, held_out)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_the_seeds_and_new_in_every_epoch(kind, tmp_path):
    def labels(seed):
        torch.manual_seed(torch.seed())  # the global stream has no say
        loader = make(kind, tmp_path, seed=seed, val_share=0.0, batch_size=7).train_dataloader()
        return [[y for _, labels in batches(loader) for y in labels] for _ in range(2)]

    first = labels(1)
    assert first == labels(1)
    assert first[0] != first[1]
    assert sorted(first[0]) == sorted(first[1])


@pytest.mark.parametrize("kind", KINDS)
def test_loading_leaves_the_global_random_stream_alone(kind, tmp_path):
    data = make(kind, tmp_path, val_share=0.3)
    state = torch.get_rng_state()
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches(loader)
    data.mean_image()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_load_the_same_batches(kind, tmp_path):
    alone, helped = (make(kind, tmp_path, num_workers=n, batch_size=10, val_share=0.0) for n in (0, 2))
    assert not alone.train_dataloader().persistent_workers
    assert helped.train_dataloader().persistent_workers
    for (x, y), (x2, y2) in zip(batches(alone.train_dataloader()), batches(helped.train_dataloader()), strict=True):
        assert torch.equal(x, x2)
        assert y == y2


@few_workers
@pytest.mark.filterwarnings("ignore:Total length of `list`")  # Lightning's word on a folder with nothing to validate on
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("val_share", [0.2, 0.0])
def test_a_variant_trains_on_it(kind, val_share, tmp_path):
    data = make(kind, tmp_path, val_share=val_share, batch_size=8)
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(Variant("cnn2_v2", num_classes=data.num_classes), data)
    assert trainer.global_step == len(data.train_dataloader())
    assert ("val/loss" in trainer.callback_metrics) == (val_share > 0 or kind != "folder")
    if kind != "folder":
        trainer.test(Variant("cnn2_v2"), data, verbose=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_of_classes_is_relabelled_in_the_order_given(kind, tmp_path):
    everything = make(kind, tmp_path)
    names = [everything.classes[7], everything.classes[2]]
    data = make(kind, tmp_path, classes=names)
    assert (data.classes, data.num_classes) == (tuple(names), 2)
    assert set(data._train.labels) == {0, 1}
    if kind != "synthetic":  # there the classes take turns, so an index means another picture
        for index in data._train.indices:
            here, there = data.image_at(index), everything.image_at(index)
            assert torch.equal(here.image, there.image)
            assert data.classes[here.label] == everything.classes[there.label]


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_per_class_in_the_order_of_the_classes(kind, tmp_path):
    data = make(kind, tmp_path)
    found = data.one_per_class()
    assert [data.image_at(index).label for index in found] == list(range(10))
    assert all(data.image_at(smaller).label != label for label, index in enumerate(found) for smaller in range(index))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_image_is_that_of_the_training_images(kind, tmp_path):
    data = make(kind, tmp_path)
    expected = torch.stack([data.image_at(index).image for index in data._train.indices]).double().mean(0)
    assert torch.allclose(data.mean_image().double(), expected, atol=1e-6)
    assert data.sample(5).shape == (5, 3, 32, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_does_not_exist_is_named(kind, tmp_path):
    with pytest.raises(ValueError, match="no image 999 among the 30 training images of 10 classes, 0 … 29"):
        make(kind, tmp_path).image_at(999)


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_module_survives_pickling(kind, tmp_path):
    data = make(kind, tmp_path)
    expected = data.image_at(3).image
    assert torch.equal(pickle.loads(pickle.dumps(data)).image_at(3).image, expected)


@pytest.mark.parametrize("data", [Synthetic, CIFAR10, ImageFolder])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"val_share": 1.0}, "val_share .* got 1.0"),
        ({"val_share": -0.1}, "val_share .* got -0.1"),
        ({"val_share": float("nan")}, "val_share .* got nan"),
        ({"mean": [0.5, 0.5]}, r"mean must be one finite number or three, got \(0.5, 0.5\)"),
        ({"mean": float("nan")}, "mean must be one finite number"),
        ({"std": 0.0}, r"std must be positive, got \(0.0,\)"),
        ({"classes": ["sea"]}, r"classes must name at least two, each once, got \['sea'\]"),
        ({"classes": ["sea", "sea"]}, "each once"),
    ],
)
def test_bad_settings_are_refused_at_construction(data, settings, message):
    where = {"root": "/nowhere"} if data is ImageFolder else {}
    with pytest.raises(ValueError, match=message):
        data(**where, **settings)


@pytest.mark.parametrize("data", [Synthetic, CIFAR10, ImageFolder])
def test_the_command_line_reads_and_explains_every_argument(data):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data, "data")
    arguments = ["--data.batch_size=5", "--data.mean=[0.1,0.2,0.3]", "--data.classes=[a,b]", "--data.root=x"]
    found = parser.parse_args(arguments[: 3 if data is Synthetic else 4]).data
    assert (found.batch_size, found.mean, found.classes, found.std) == (5, [0.1, 0.2, 0.3], ["a", "b"], 1.0)
    text = " ".join(parser.format_help().split())
    for name, parameter in inspect.signature(data).parameters.items():
        assert f"--data.{name}" in text
        assert parameter.annotation is not inspect.Parameter.empty
        assert f" {name}: " in " ".join(data.__doc__.split())
    assert "Images in a batch" in text
