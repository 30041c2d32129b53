import pytest
import torch

from leakage_audit.callbacks.capture.batches import Target, find_targets, unpack

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
    images, others = unpack(batch)
    tensors = [tensor for _, tensor in others]
    assert images is X
    assert find_targets(tensors)[0].read(tensors) is Y or torch.equal(find_targets(tensors)[0].read(tensors), Y)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (((X * 255).byte(), Y), "no floating-point images .* uint8"),
        ({"text": ["a"]}, "no tensor at all"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(batch, message):
    with pytest.raises(ValueError, match=message):
        unpack(batch)


ONE_HOT = torch.eye(5)[Y]


@pytest.mark.parametrize(
    ("tensor", "targets"),
    [
        (Y, [Target(0, "class")]),
        (Y[:, None].byte(), [Target(0, "class")]),
        (ONE_HOT, [Target(0, "argmax"), Target(0, "value")]),
        (0.8 * ONE_HOT + 0.04, [Target(0, "value")]),
        (torch.tensor([[1.0], [0.0], [0.0], [1.0]]), [Target(0, "value")]),
        (torch.tensor([[0.0, 0.25, 0.75]]), [Target(0, "value")]),  # soft, and some are 0 and add up to 1
        (torch.tensor([0.3, 0.1, 0.2, 0.9]), []),  # a regression's
        (torch.tensor([0.0, 0.1, 1.0, 0.9]), []),
        (3 * torch.randn(4, 5), []),
        (torch.randint(5, (4, 8, 8)), []),  # a class for each pixel
    ],
)
def test_what_can_be_a_target(tensor, targets):
    assert find_targets([tensor]) == targets


def test_targets_are_read_as_classes():
    assert torch.equal(Target(0, "argmax").read([ONE_HOT]), Y)
    assert torch.equal(Target(1, "class").read([ONE_HOT, Y[:, None].byte()]), Y)
    with pytest.raises(ValueError, match="fewer tensors"):
        Target(2, "value").read([ONE_HOT])
