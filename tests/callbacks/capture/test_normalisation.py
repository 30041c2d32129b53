from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import Compose, Normalize, RandomApply, ToTensor, v2

from leakage_audit.callbacks.capture.normalisation import find_normalisation

X, Y = torch.rand(4, 3, 8, 8), torch.arange(4)
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
    assert find_normalisation(None, DataLoader(TensorDataset(X, Y)))[0] is None


@pytest.mark.parametrize("values", [np.array(MEAN), torch.tensor(MEAN, dtype=torch.float64), lambda: list(MEAN)])
def test_numbers_in_any_form(values):
    assert find_normalisation(SimpleNamespace(mean=values, std=STD), None)[0] == (MEAN, STD)


def test_two_in_a_row_compose():
    x = torch.rand(3, 4, 4, dtype=torch.float64)
    both = Compose([Normalize(0.5, 0.25), Normalize(MEAN, STD)])
    (mean, std), _, doubts = find_normalisation(SimpleNamespace(transform=both), None)
    torch.testing.assert_close(Normalize(mean, std)(x), both(x))
    assert not doubts


def test_alternatives_of_one_owner_do_not_compose():
    owner = SimpleNamespace(train_transform=Normalize(MEAN, STD), transforms=Normalize(0.5, 0.5))
    assert find_normalisation(owner, None)[0] == (MEAN, STD)


@pytest.mark.parametrize(
    "owner",
    [
        SimpleNamespace(transform=RandomApply([Normalize(MEAN, STD)])),
        SimpleNamespace(mean={"train": MEAN}, std={"train": STD}),
    ],
)
def test_what_is_uncertain_is_taken_with_a_doubt(owner):
    found, _, doubts = find_normalisation(owner, None)
    assert found == (MEAN, STD)
    assert "`mean` and `std`" in doubts[0]


@pytest.mark.parametrize("values", ["unknown", {"val": MEAN}, object(), lambda stage: MEAN])
def test_what_is_not_understood_is_a_doubt_and_no_exception(values):
    found, _, doubts = find_normalisation(SimpleNamespace(mean=values, std=values), None)
    assert found is None
    assert "not understood" in doubts[0]


@pytest.mark.parametrize(("channels", "taken"), [(1, True), (64, True), (65, False), (0, False)])
def test_as_many_numbers_as_images_may_have_channels(channels, taken):
    found, _, doubts = find_normalisation(SimpleNamespace(mean=[0.5] * channels, std=[0.25] * channels), None)
    assert (found is not None) is taken
    assert bool(doubts) is not taken
