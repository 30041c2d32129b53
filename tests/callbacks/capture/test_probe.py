"""Which images are followed: the draw, the file beside the log, and what happens when it cannot be read or written."""

from types import SimpleNamespace

import pytest
import torch

from leakage_audit.callbacks.capture import probe as module
from leakage_audit.callbacks.capture.probe import Probe, load_probe, save_probe

BATCH = (torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2), torch.arange(6) + 10)
OTHER = (BATCH[0] + 100, BATCH[1] + 100)
TRAINER = SimpleNamespace(global_rank=0)


def probe(said=None, fixed=True, seed=0, folder=None, earlier=None, trainer=TRAINER):
    return Probe(trainer, fixed, seed, folder, earlier, [].append if said is None else said.append)


def chosen(pair):
    images, labels = pair
    assert torch.equal(images[:, 0, 0, 0].long() + 10, labels)  # an image and its own label
    return labels.tolist()


def test_new_ones_each_time_where_they_are_not_fixed():
    found = probe(fixed=False)
    first, second = found.choose(BATCH, 2, 4), found.choose(OTHER, 3, 4)
    assert (len(first[0]), len(second[0])) == (2, 3)
    assert set(chosen(first)) <= set(BATCH[1].tolist())
    assert set(second[1].tolist()) <= set(OTHER[1].tolist())


def test_the_same_ones_all_along_as_many_as_are_wanted_now(tmp_path):
    found = probe(folder=tmp_path / "new")
    first = found.choose(BATCH, 1, 4)
    again = found.choose(OTHER, 4, 4)
    assert (len(first[0]), len(again[0])) == (1, 4)
    assert chosen(again)[:1] == chosen(first)
    assert len(set(chosen(again))) == 4
    kept = torch.load(tmp_path / "new" / "probe_0.pt", weights_only=True)
    assert torch.equal(kept[1], again[1])


def test_the_seed_picks_them():
    picked = {seed: chosen(probe(seed=seed).choose(BATCH, 3, 3)) for seed in range(4)}
    assert chosen(probe(seed=1).choose(BATCH, 3, 3)) == picked[1]
    assert len({tuple(labels) for labels in picked.values()}) > 1
    expected = torch.randperm(6, generator=torch.Generator().manual_seed(1))[:3] + 10
    assert picked[1] == expected.tolist()


def test_what_is_picked_is_a_copy():
    images, labels = BATCH[0].clone(), BATCH[1].clone()
    found = probe().choose((images, labels), 6, 6)
    images.zero_(), labels.zero_()
    assert found[0].any()
    assert found[1].all()


def test_a_resumed_fit_follows_those_of_the_earlier_one(tmp_path):
    first = probe(folder=tmp_path).choose(BATCH, 2, 2)
    said = []
    again = probe(said, folder=tmp_path / "later", earlier=tmp_path).choose(OTHER, 2, 2)
    assert torch.equal(again[0], first[0])
    assert torch.equal(again[1], first[1])
    assert not said
    # Kept again, so that a fit that is resumed twice follows them too.
    third = probe(said, folder=tmp_path / "last", earlier=tmp_path / "later").choose(OTHER, 2, 2)
    assert torch.equal(third[0], first[0])


def test_each_rank_has_its_own(tmp_path):
    save_probe(BATCH, tmp_path, SimpleNamespace(global_rank=3), [].append)
    assert [path.name for path in tmp_path.iterdir()] == ["probe_3.pt"]
    assert load_probe(tmp_path, TRAINER, torch.device("cpu"), [].append) is None
    assert load_probe(tmp_path, SimpleNamespace(global_rank=3), torch.device("cpu"), [].append) is not None


def test_nothing_earlier_is_no_reason_to_complain(tmp_path):
    said = []
    for folder in (None, tmp_path, tmp_path / "none"):
        assert load_probe(folder, TRAINER, torch.device("cpu"), said.append) is None
    save_probe(BATCH, None, TRAINER, said.append)
    assert not said


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "probe_0.pt").write_bytes(b"half a file")
    said = []
    found = probe(said, earlier=tmp_path).choose(BATCH, 2, 2)
    assert len(found[0]) == 2
    assert len(said) == 1
    assert str(tmp_path / "probe_0.pt") in said[0]
    assert "cannot be read" in said[0]


@pytest.mark.parametrize("half", [b"", b"half"], ids=["nothing", "half"])
@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("full")])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(error, half, tmp_path, monkeypatch):
    def save(parts, path):
        if half:
            path.write_bytes(half)
        raise error

    monkeypatch.setattr(module.torch, "save", save)
    said = []
    found = probe(said, folder=tmp_path).choose(BATCH, 2, 2)
    assert len(found[0]) == 2
    assert len(said) == 1
    assert said[0].endswith("follow others: full")
    assert not list(tmp_path.iterdir())


def test_the_file_appears_whole(tmp_path, monkeypatch):
    seen, save = [], torch.save

    def watched(parts, path):
        save(parts, path)
        seen.append(sorted(file.name for file in tmp_path.iterdir()))

    monkeypatch.setattr(module.torch, "save", watched)
    save_probe(BATCH, tmp_path, TRAINER, [].append)
    assert len(seen) == 1
    assert seen[0][0].endswith(".tmp")
    assert [file.name for file in tmp_path.iterdir()] == ["probe_0.pt"]
