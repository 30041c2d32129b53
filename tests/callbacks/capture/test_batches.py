from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import Compose, Normalize, ToTensor, v2

from leakage_audit.callbacks.capture.batches import find_normalisation, unpack

X, Y = torch.rand(4, 3, 8, 8), torch.arange(4)
MASK = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        [Y, X],
        (X, Y, torch.rand(4)),
        {"image": X, "label": Y},
        {"index": torch.arange(4) + 7, "mask": MASK, "pixel_values": X, "labels": Y},
        ((X, Y), {"path": ["a", "b", "c", "d"]}),
        {"data": (X, Y), "weight": torch.rand(4)},
    ],
)
def test_images_and_labels_are_found(batch):
    images, labels = unpack(batch)
    assert images is X
    assert labels is Y


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "no integer labels .* tensor \\(4, 3, 8, 8\\) float32"),
        ((X, torch.rand(4, 10)), "no integer labels"),
        (((X * 255).byte(), Y), "no floating-point images .* uint8"),
        ({"text": ["a"]}, "no tensor at all"),
        ((X, torch.arange(3)), "no integer labels"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(batch, message):
    with pytest.raises(ValueError, match=message):
        unpack(batch)


MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
FAKE = FakeData(8, (3, 8, 8), 4, Compose([ToTensor(), Normalize(MEAN, STD)]))
FAKE_V2 = FakeData(8, (3, 8, 8), 4, v2.Compose([v2.Compose([v2.ToImage()]), v2.Normalize(list(MEAN), list(STD))]))


@pytest.mark.parametrize("data", [FAKE, FAKE_V2, Subset(FAKE, [0, 1]), ConcatDataset([Subset(FAKE, [0]), FAKE])])
def test_normalisation_is_found_in_the_transforms(data):
    found = find_normalisation(None, DataLoader(data))
    assert found is not None
    assert found[0] == (MEAN, STD)


def test_the_datamodules_own_numbers_come_first():
    module = SimpleNamespace(mean=0.5, std=torch.tensor([1.0, 2.0, 3.0]))
    assert find_normalisation(module, DataLoader(FAKE))[0] == ((0.5,), (1.0, 2.0, 3.0))


def test_the_datamodules_transforms_are_looked_through():
    module = SimpleNamespace(transform=Compose([Normalize(0.5, 0.25)]))
    assert find_normalisation(module, None)[0] == ((0.5,), (0.25,))


def test_nothing_is_found_where_nothing_is():
    assert find_normalisation(None, DataLoader(TensorDataset(X, Y))) is None
