import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.data import Synthetic
from leakage_audit.models import VARIANTS, Variant, build


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_its_row_of_the_papers_table(variant):
    network = build(variant)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    rows = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0]) for c in convolutions]
    assert tuple(rows) == VARIANTS[variant]
    assert all(c.bias is None for c in convolutions)
    assert len([layer for layer in network if isinstance(layer, nn.Tanh)]) == len(rows)
    assert network[-1].bias is not None
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_weights_are_those_of_torchs_layers_drawn_in_order():
    torch.manual_seed(10)
    network = build("cnn3_v1")
    torch.manual_seed(10)
    first, second, last = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 3, 4, 2, bias=False), nn.Linear(3 * 14 * 14, 10)
    assert torch.equal(network.conv1.weight, first.weight)
    assert torch.equal(network.conv2.weight, second.weight)
    assert torch.equal(network.fc.weight, last.weight)


def test_other_sizes_and_classes():
    assert build("cnn4_v2", num_classes=2, image_size=64)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cnn5_v1",), "unknown variant 'cnn5_v1'; there are cnn2_v1"),
        (("cnn2_v1", 1), "num_classes must be at least 2"),
        (("cnn3_v2", 10, 5), "too small for cnn3_v2's convolution 2"),
    ],
)
def test_what_cannot_be_built_says_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:GPU available but not used")
def test_the_module_learns_and_reports_loss_and_accuracy(tmp_path):
    torch.manual_seed(0)
    data = Synthetic(train_images=60, test_images=20, classes=["sea", "forest"], image_size=16)
    model = Variant("cnn2_v2", num_classes=2, image_size=16)
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]
    assert after["val/loss"] < before["val/loss"]
    # The logged figures against the definition, on the whole split.
    data.setup("validate")
    scores, labels = zip(*((model(x), y) for x, y in data.val_dataloader()), strict=True)
    scores, labels = torch.cat(scores), torch.cat(labels)
    assert after["val/loss"] == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
    assert after["val/accuracy"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())
