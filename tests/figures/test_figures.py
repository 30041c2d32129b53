"""The pictures: enlarged without blur, captioned, nothing lost, and clear words on what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from leakage_audit.figures import ComparisonRow, audit_grid, caption, comparison_figure, loss_plot
from leakage_audit.figures.sheet import lay_out, tile


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def find(image, sheet, enlarge):
    """Top left corners at which the enlarged image stands on the sheet, pixel for pixel."""
    pixels = (image.expand(3, -1, -1) * 255).round().to(torch.uint8)
    wanted = pixels.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    height, width = wanted.shape[1:]
    corner = (sheet == wanted[:, :1, :1]).all(0).nonzero().tolist()
    return [(y, x) for y, x in corner if torch.equal(sheet[:, y : y + height, x : x + width], wanted)]


def place(image, sheet, enlarge):
    (found,) = find(image, sheet, enlarge)
    return found


def test_each_target_stands_above_its_reconstructions():
    targets, rgap, joint = (draw(2, 3, 16, 16, seed=s) for s in range(3))
    sheet = audit_grid(targets, {"rgap": rgap, "joint": joint}, enlarge=4)
    assert sheet.dtype == torch.uint8
    assert sheet.shape[0] == 3
    columns = [[place(images[k], sheet, 4) for images in (targets, rgap, joint)] for k in range(2)]
    for column in columns:
        assert len({x for _, x in column}) == 1
        assert [y for y, _ in column] == sorted(y for y, _ in column)
    assert columns[0][0][1] < columns[1][0][1]


@pytest.mark.parametrize(("size", "enlarge"), [(32, 5), (16, 10), (64, 2), (224, 1)])
def test_images_are_enlarged_to_a_readable_size(size, enlarge):
    image = draw(3, size, size)
    assert find(image, audit_grid(image, {}), enlarge)


def test_a_caption_is_written_below_its_picture():
    image = draw(3, 16, 16)
    texts = {"rgap": ["rgap  148.9 dB\nchance 12.4 dB"]}
    sheet = audit_grid(image, {"rgap": 1 - image}, texts, title="step 200", enlarge=10)
    bare = audit_grid(image, {"rgap": 1 - image}, {"rgap": [" \n "]}, title="step 200", enlarge=10)
    assert sheet.shape == bare.shape
    changed = (sheet != bare).any(0).nonzero()
    top, left = place(1 - image, sheet, 10)
    assert changed[:, 0].min() >= top + 160
    assert (changed[:, 1].min() >= left, changed[:, 1].max() <= left + 160) == (True, True)
    assert sheet[:, changed[:, 0], changed[:, 1]].min() < 80  # dark on white: legible


def test_a_long_caption_widens_its_column_and_is_not_cut():
    image = draw(3, 8, 8)
    narrow, wide = (audit_grid(image, {"a": image}, {"a": [text]}, enlarge=4) for text in ("a", "a long caption" * 4))
    assert wide.shape[2] > narrow.shape[2] + 200
    assert (wide[:, -12:, -8:] == 255).all()


def test_values_outside_the_range_are_clipped_for_showing_and_nan_is_grey():
    image = torch.tensor([-3.0, 0.5, 7.0, float("nan"), float("inf"), 1.0]).expand(3, 6, 6)
    shown = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.5, 1.0]).expand(3, 6, 6)
    before = image.clone()
    sheet = audit_grid(draw(3, 6, 6), {"dlg": image}, enlarge=3)
    assert find(shown, sheet, 3)
    assert torch.equal(image.nan_to_num(), before.nan_to_num())


def test_grey_images_can_be_shown():
    image = draw(1, 8, 8)
    assert find(image, audit_grid(image, {}), 20)


def test_float64_on_a_graph_can_be_shown():
    image = draw(1, 3, 8, 8).double().requires_grad_()
    assert audit_grid(image, {"joint": image * 1.0}).shape[0] == 3


@pytest.mark.parametrize(
    ("targets", "reconstructions", "captions", "message"),
    [
        ((2, 3, 8, 8), (1, 3, 8, 8), {}, r"rgap must be shaped like the targets \(2, 3, 8, 8\), got \(1, 3, 8, 8\)"),
        ((3, 8, 8), (3, 8, 9), {}, r"got \(1, 3, 8, 9\)"),
        ((2, 3, 8, 8), (2, 3, 8, 8), {"rgap": ["one"]}, "rgap has 1 captions for 2 images"),
        ((4, 8, 8), (4, 8, 8), {}, r"an image must be \(1 or 3, H, W\), got \(4, 8, 8\)"),
    ],
)
def test_what_does_not_fit_is_named(targets, reconstructions, captions, message):
    with pytest.raises(ValueError, match=message):
        audit_grid(torch.zeros(targets), {"rgap": torch.zeros(reconstructions)}, captions)


def test_caption_text():
    assert caption("joint", 31.44, 12.36, 0.912) == "joint  31.4 dB\nSSIM 0.91, chance 12.4 dB"
    assert caption("joint", 31.4, 12.4, 0.91, "recognisable").splitlines() == [
        "joint  31.4 dB",
        "recognisable",
        "SSIM 0.91, chance 12.4 dB",
    ]
    assert caption("rgap", -3.0) == "rgap  -3.0 dB"
    assert caption("rgap", 5.0, chance=12.0) == "rgap  5.0 dB\nchance 12.0 dB"


def test_the_comparison_sets_target_and_attacks_side_by_side(tmp_path):
    targets, rgap, joint = (draw(2, 3, 32, 32, seed=s) for s in range(3))
    rows = [
        ComparisonRow("cnn2_v1", "image 1", targets[0], {"rgap": rgap[0]}, {"rgap": "148.9 dB"}),
        ComparisonRow("cnn2_v1", "image 3", targets[1], {"rgap": rgap[1], "joint": joint[1]}),
    ]
    picture = comparison_figure(rows, tmp_path / "figure.png")
    saved = pil_to_tensor(Image.open(tmp_path / "figure.png"))
    assert (picture.height, picture.width) == saved.shape[1:]
    first = [place(image, saved, 3) for image in (targets[0], rgap[0])]
    second = [place(image, saved, 3) for image in (targets[1], rgap[1], joint[1])]
    assert len({y for y, _ in first}) == len({y for y, _ in second}) == 1
    assert first[0][0] < second[0][0]
    assert [x for _, x in second] == sorted({x for _, x in second})
    assert [x for _, x in first] == [x for _, x in second[:2]]
    left = saved[:, :, : second[0][1]]
    assert left[:, first[0][0] :].min() < 80  # the network's name at the left


def test_a_networks_name_stands_once():
    cell = tile(np.zeros((8, 8, 3), np.uint8), "", 4)

    def ink(labels):
        return (255 - np.array(lay_out([[cell], [cell]], labels=labels), np.int64)).sum()

    assert ink([("net", ""), ("net", "")]) < ink([("net", ""), ("ten", "")])


def test_an_empty_comparison_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        comparison_figure([])


def test_the_loss_plot_shows_both_curves(tmp_path):
    train, test = ([0, 1, 2], [1.0, 0.5, 0.25]), ([0, 1, 2], [1.1, 0.7, 0.6])
    figure = loss_plot(train, test, "cnn4_v1", tmp_path / "loss.png")
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["training loss", "test loss"]
    for line, (epochs, losses) in zip(axes.lines, (train, test), strict=True):
        assert line.get_xdata().tolist() == epochs
        assert line.get_ydata().tolist() == losses
    assert axes.get_xlabel() == "epoch"
    with Image.open(tmp_path / "loss.png") as saved:
        assert saved.width > 500


@pytest.mark.parametrize("bad", [([], []), ([0, 1], [0.5])])
def test_a_loss_curve_that_does_not_fit_its_epochs_is_refused(bad):
    with pytest.raises(ValueError, match=f"test needs one loss an epoch, got {len(bad[1])} for {len(bad[0])}"):
        loss_plot(([0], [1.0]), bad)
