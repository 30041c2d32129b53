"""The data modules one by one: which image an index means, and what is said where images are missing."""

import urllib.error

import pytest
import torch
import torchvision
from sources import SmallCIFAR10, batches, colour, save

from leakage_audit.data import CIFAR10, CIFAR10_CLASSES, ImageFolder, Synthetic
from leakage_audit.data.synthetic import draw


@pytest.fixture
def small_cifar10(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", SmallCIFAR10)


@pytest.fixture
def folder(tmp_path):
    """Three classes of four pictures each, named by number as in the CIFAR-10 folder, numbers scattered."""
    for index in range(12):
        save(tmp_path / "train" / ("cat", "dog", "elk")[index % 3] / f"{10 * index + 1:05d}.png", colour(index))
    return tmp_path


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


@pytest.mark.usefixtures("small_cifar10")
def test_a_cifar10_index_is_the_place_in_the_training_set(tmp_path):
    data = CIFAR10(str(tmp_path), classes=["truck", "deer"])
    stored = torchvision.datasets.CIFAR10(str(tmp_path))
    found = data.image_at(7)  # class 9, the truck
    assert torch.equal(found.image, torch.from_numpy(stored.data[7]).permute(2, 0, 1).float() / 255)
    assert (found.label, found.source) == (0, "CIFAR-10 train 7")
    with pytest.raises(ValueError, match="no image 1 among"):
        data.image_at(1)


@pytest.mark.usefixtures("small_cifar10")
def test_cifar10_can_be_resized(tmp_path):
    assert CIFAR10(str(tmp_path), image_size=16).image_at(0).image.shape == (3, 16, 16)


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


def test_no_test_images(folder):
    with pytest.raises(ValueError, match="ImageFolder found no test images"):
        ImageFolder(str(folder)).setup("test")


def test_two_images_are_too_few_to_hold_out_most(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        save(tmp_path / name)
    with pytest.raises(ValueError, match=r"no image is left to train on: 2 in all, val_share 0\.9"):
        ImageFolder(str(tmp_path), val_share=0.9).setup("fit")
