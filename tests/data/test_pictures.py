"""Pictures from files: every kind becomes 8-bit RGB of the size asked for, or is refused by name."""

import pytest
import torch
from PIL import Image
from sources import save

from leakage_audit.data import pictures
from leakage_audit.data.pictures import Files, read


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
def test_other_kinds_of_picture_become_rgb(tmp_path, mode, value, expected):
    save(tmp_path / "a.png", value, mode)
    image = read(tmp_path / "a.png", 8)
    assert (image.shape, image.dtype) == ((3, 8, 8), torch.uint8)
    assert image[:, 3, 3].tolist() == list(expected)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([9, 8, 7] * 256)
    picture.save(tmp_path / "a.png", transparency=bytes([0] * 256))
    assert read(tmp_path / "a.png", 8)[:, 0, 0].tolist() == [9, 8, 7]


def test_a_picture_of_another_shape_is_cut_to_its_middle_and_resized(tmp_path):
    stripes = Image.new("RGB", (32, 16), (255, 0, 0))
    stripes.paste((0, 255, 0), (8, 0, 24, 16))
    stripes.save(tmp_path / "a.png")
    expected = torch.tensor([0.0, 255.0, 0.0]).view(3, 1, 1).expand(3, 8, 8)
    assert torch.allclose(read(tmp_path / "a.png", 8).float(), expected, atol=20)  # resizing looks past the cut


def test_a_cameras_rotation_is_undone(tmp_path):
    picture = Image.new("RGB", (8, 8), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 8, 4))  # white above, to be turned clockwise by a quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    image = read(tmp_path / "a.png", 8)
    assert (image[:, :, 4:] == 255).all()
    assert (image[:, :, :4] == 0).all()


def test_a_damaged_picture_is_named(tmp_path):
    path = tmp_path / "00001.png"
    for length in (0, 4, 40):
        save(path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"00001\.png cannot be read as an image"):
            read(path, 8)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "00002.tiff")
    with pytest.raises(ValueError, match=r"00002\.tiff holds floating-point pixels"):
        read(tmp_path / "00002.tiff", 8)


@pytest.mark.parametrize(("limit", "kept"), [(2 * 3 * 64, True), (2 * 3 * 64 - 1, False)])
def test_pictures_are_read_once_unless_they_are_too_many_to_keep(tmp_path, monkeypatch, limit, kept):
    monkeypatch.setattr(pictures, "KEPT_BYTES", limit)
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for path in paths:
        save(path, (1, 1, 1))
    files = Files(paths, [0, 1], 8)
    before = files.load(0)
    save(paths[0], (200, 200, 200))
    assert torch.equal(files.load(0), before) == kept
