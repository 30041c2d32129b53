"""The data modules: what a batch is, which image an index means, the split, and what is said of bad folders."""

import inspect
import pickle
import urllib.error

import jsonargparse
import lightning as L
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from leakage_audit import pictures
from leakage_audit.data import CIFAR10, CIFAR10_CLASSES, ImageFolder, Synthetic
from leakage_audit.models import Variant
from leakage_audit.scenes import SCENES, draw

few_workers = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")


def save(path, value=0, mode="RGB", size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def colour(index):
    return (index, 2 * index, 255 - index)


@pytest.fixture
def folder(tmp_path):
    """Three classes of four pictures each, named by number as in the CIFAR-10 folder, numbers scattered."""
    for index in range(12):
        save(tmp_path / "train" / ("cat", "dog", "elk")[index % 3] / f"{10 * index + 1:05d}.png", colour(index))
    return tmp_path


def batches(loader):
    return [(x.clone(), y.tolist()) for x, y in loader]


# ---- what all three share


def make(kind, tmp_path, **settings):
    if kind == "synthetic":
        return Synthetic(train_images=30, test_images=12, **settings)
    if kind == "folder":
        for index in range(30):
            save(tmp_path / "train" / SCENE_NAMES[index % 10] / f"{index}.png", colour(index))
        return ImageFolder(str(tmp_path), **settings)
    return CIFAR10(str(tmp_path), **settings)


SCENE_NAMES = tuple(SCENES)
KINDS = ("synthetic", "folder", "cifar10")


@pytest.fixture(autouse=True)
def small_cifar10(monkeypatch, request):
    """In place of torchvision's CIFAR-10, the same attributes on 30 training and 10 test images."""
    if "no_cifar10" in request.fixturenames:
        return

    class Stub:
        def __init__(self, root, train=True, download=False):
            count = 30 if train else 10
            random = np.random.default_rng(int(train))
            self.data = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            self.targets = [(7 * i) % 10 for i in range(count)]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Stub)


@pytest.fixture
def no_cifar10():
    """Keep torchvision's own."""


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


# ---- Synthetic


def test_synthetic_images_are_the_scenes():
    data = Synthetic(train_images=20, test_images=10, classes=["fish", "city"], image_size=16, seed=4)
    expected = draw("city", [7], size=16, seed=4)[0].float() / 255
    found = data.image_at(7)
    assert torch.equal(found.image, expected)
    assert (found.label, found.source) == (1, "synthetic city, seed 4, 7")
    data.setup("fit")
    assert torch.equal(data.image_at(7).image, expected)


def test_no_synthetic_test_image_is_a_training_image():
    data = Synthetic(train_images=20, test_images=10)
    assert not set(data._train.indices) & set(data._test.indices)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 7}, "image_size must be at least 8, got 7"),
        ({"train_images": 9}, "train_images must be at least one for each of 10 classes, got 9"),
        ({"test_images": 0}, "test_images .* got 0"),
        ({"classes": ["sea", "moon"]}, "unknown classes moon; there are sea, hills"),
    ],
)
def test_bad_synthetic_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Synthetic(**settings)


# ---- CIFAR10


def test_a_cifar10_index_is_the_place_in_the_training_set(tmp_path):
    data = CIFAR10(str(tmp_path), classes=["truck", "deer"])
    stored = torchvision.datasets.CIFAR10(str(tmp_path))
    found = data.image_at(7)  # class 9, the truck
    assert torch.equal(found.image, torch.from_numpy(stored.data[7]).permute(2, 0, 1).float() / 255)
    assert (found.label, found.source) == (0, "CIFAR-10 train 7")
    with pytest.raises(ValueError, match="no image 1 among"):
        data.image_at(1)


def test_cifar10_can_be_resized(tmp_path):
    assert CIFAR10(str(tmp_path), image_size=16).image_at(0).image.shape == (3, 16, 16)


@pytest.mark.usefixtures("no_cifar10")
def test_cifar10_that_is_not_there_says_how_to_get_it_and_what_to_use_instead(tmp_path):
    data = CIFAR10(str(tmp_path / "none"))
    data.prepare_data()  # downloads nothing unasked
    with pytest.raises(FileNotFoundError, match=r"none: download=True .*--data.download=true.* leakage_audit.data.Syn"):
        data.setup("fit")
    assert not (tmp_path / "none").exists()


def test_a_download_that_fails_names_the_offline_default(tmp_path, monkeypatch):
    def fail(root, download):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*leakage_audit\.data\.Synthetic"):
        CIFAR10(str(tmp_path), download=True).prepare_data()


def test_unknown_cifar10_class():
    with pytest.raises(ValueError, match="unknown classes lorry; there are airplane"):
        CIFAR10(classes=["lorry", "deer"])


def test_cifar10_classes_are_in_torchvisions_order():
    assert list(CIFAR10_CLASSES) == sorted(CIFAR10_CLASSES)
    assert CIFAR10_CLASSES[9] == "truck"


# ---- ImageFolder


def test_an_index_is_the_number_in_the_files_name(folder):
    data = ImageFolder(str(folder), image_size=8)
    found = data.image_at(51)
    assert data.classes == ("cat", "dog", "elk")
    assert (found.label, found.source) == (2, str(folder / "train" / "elk" / "00051.png"))
    assert (found.image[:, 0, 0] * 255).round().tolist() == list(colour(5))


def test_names_that_are_no_numbers_are_counted_in_sorted_order(tmp_path):
    for name, value in (("b/x.png", 3), ("a/y.png", 2), ("a/deep/7.png", 1)):
        save(tmp_path / name, (value, 0, 0))
    data = ImageFolder(str(tmp_path))  # class folders directly in the folder
    assert [int(data.image_at(index).image[0, 0, 0] * 255) for index in range(3)] == [1, 2, 3]


def test_numbers_that_repeat_between_classes_are_counted_in_sorted_order(tmp_path):
    for name in ("a/5.png", "b/5.png"):
        save(tmp_path / name)
    data = ImageFolder(str(tmp_path))
    assert [data.image_at(index).label for index in (0, 1)] == [0, 1]


def test_a_folder_of_its_own_for_validation_is_used(folder):
    for index in range(6):
        save(folder / "val" / ("cat", "dog", "elk")[index % 3] / f"{index}.png")
    data = ImageFolder(str(folder), image_size=8, batch_size=100)
    assert len(batches(data.train_dataloader())[0][1]) == 12
    assert sorted(batches(data.val_dataloader())[0][1]) == [0, 0, 1, 1, 2, 2]


def test_test_images_serve_for_validation_where_none_are_held_out(folder):
    for name in ("cat", "dog", "elk"):
        save(folder / "test" / name / "1.png")
    data = ImageFolder(str(folder), val_share=0.0)
    assert sum(len(y) for _, y in batches(data.val_dataloader())) == 3


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 257 * 90, (90, 90, 90)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("LA", (60, 128), (60, 60, 60)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_other_kinds_of_picture_become_rgb(folder, mode, value, expected):
    save(folder / "train" / "cat" / "00001.png", value, mode)
    image = ImageFolder(str(folder), image_size=8).image_at(1).image
    assert (image[:, 3, 3] * 255).round().tolist() == list(expected)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(folder):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([9, 8, 7] * 256)
    picture.save(folder / "train" / "cat" / "00001.png", transparency=bytes([0] * 256))
    assert (ImageFolder(str(folder), image_size=8).image_at(1).image[:, 0, 0] * 255).round().tolist() == [9, 8, 7]


def test_a_picture_of_another_shape_is_cut_to_its_middle_and_resized(folder):
    stripes = Image.new("RGB", (32, 16), (255, 0, 0))
    stripes.paste((0, 255, 0), (8, 0, 24, 16))
    stripes.save(folder / "train" / "cat" / "00001.png")
    image = ImageFolder(str(folder), image_size=8).image_at(1).image
    assert torch.allclose(image, torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1).expand(3, 8, 8), atol=0.1)


def test_pictures_are_read_once_unless_they_are_too_many_to_keep(folder, monkeypatch):
    kept, read_anew = (ImageFolder(str(folder), image_size=8) for _ in range(2))
    before = kept.image_at(1).image
    monkeypatch.setattr(pictures, "KEPT_BYTES", 12 * 3 * 64 - 1)
    assert torch.equal(read_anew.image_at(1).image, before)
    save(folder / "train" / "cat" / "00001.png", (200, 200, 200))
    assert torch.equal(kept.image_at(1).image, before)
    assert not torch.equal(read_anew.image_at(1).image, before)


def test_a_folder_that_is_not_there(tmp_path):
    data = ImageFolder(str(tmp_path / "none"))  # the disk is not touched before setup
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*none"):
        data.setup("fit")


def test_an_empty_class_folder(folder):
    (folder / "train" / "fox").mkdir()
    (folder / "train" / "fox" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"fox holds no image \(\.jpg"):
        ImageFolder(str(folder)).setup("fit")


@pytest.mark.parametrize(("names", "found"), [(["a/1.png"], "only 'a'"), (["1.png"], "none"), ([], "none")])
def test_fewer_than_two_classes(tmp_path, names, found):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(ValueError, match=f"{tmp_path.name} must hold a folder for each .* found {found}"):
        ImageFolder(str(tmp_path)).setup("fit")


def test_a_class_that_is_not_there(folder):
    with pytest.raises(ValueError, match="unknown classes cow; there are cat, dog, elk"):
        ImageFolder(str(folder), classes=["cow", "dog"]).setup("fit")


def test_a_damaged_picture_is_named(folder):
    path = folder / "train" / "cat" / "00001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cat/00001\.png cannot be read as an image"):
        ImageFolder(str(folder)).image_at(1)


def test_floating_point_pixels_are_refused(folder):
    Image.new("F", (8, 8), 0.5).save(folder / "train" / "cat" / "00002.tiff")
    with pytest.raises(ValueError, match=r"00002\.tiff holds floating-point pixels"):
        ImageFolder(str(folder)).image_at(2)


def test_no_test_images(folder):
    with pytest.raises(ValueError, match="ImageFolder found no test images"):
        ImageFolder(str(folder)).setup("test")


def test_two_images_are_too_few_to_hold_out_most(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name)
    with pytest.raises(ValueError, match=r"no image is left to train on: 2 in all, val_share 0\.9"):
        ImageFolder(str(tmp_path), val_share=0.9).setup("fit")
