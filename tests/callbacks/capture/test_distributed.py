"""Two processes on gloo: each audits a share, both hear the results, and neither waits for one that failed."""

import json
from importlib.util import find_spec

import pytest
import torch
from processes import on_two_ranks
from two_processes import run_all

CASES = ("none", "sample", "step", "fails", "unpack", "collective", "uneven", "overhead")
OPACUS = ("own_opacus", "own_opacus-none", "distributed_opacus", "distributed_opacus-none")
CASES += OPACUS if find_spec("opacus") else ()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By case, the folder of a fit, and what the two ranks hold afterwards; fails unless all end within two minutes."""
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(run_all, folder, CASES)
    return {
        case: (folder / case, [json.loads((folder / case / f"{rank}.json").read_text()) for rank in (0, 1)])
        for case in CASES
    }


def lines(folder):
    return [json.loads(line) for line in next(folder.rglob("audit.jsonl")).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
class TestTwoProcesses:
    @pytest.mark.parametrize("gradient", ["sample", "step"])
    def test_both_are_audited_and_nothing_changes(self, ended, gradient):
        folder, ranks = ended[gradient]
        for rank, alone in zip(ranks, ended["none"][1], strict=True):
            assert rank["weights"] == alone["weights"]
            assert rank["stream"] == alone["stream"]
            assert rank["skipped"] is None
        assert ranks[0]["metrics"] == ranks[1]["metrics"]
        record = lines(folder)[-1]
        assert record["ranks"] == 2
        assert record["verified"]["error"] < record["verified"]["tolerance"]
        if gradient == "sample":
            assert len(record["samples"]) == 3  # two on rank 0, one on rank 1
        else:
            assert len(record["samples"][0]["labels"]) == 8  # the batches of both

    def test_an_attack_that_fails_on_one_rank_is_noted(self, ended):
        folder, ranks = ended["fails"]
        assert ranks[0]["weights"] == ended["none"][1][0]["weights"]
        record = lines(folder)[-1]
        assert record["problems"] == {"fails": "RuntimeError: rank 1 has had enough"}
        assert [list(sample["attacks"]) for sample in record["samples"]] == [["fails"], ["fails"], []]

    def test_a_rank_that_cannot_read_its_batch_skips_the_audit_on_both(self, ended):
        _, ranks = ended["unpack"]
        assert ranks[0]["weights"] == ended["none"][1][0]["weights"]
        assert ranks[0]["skipped"].startswith("rank 1 could not audit: AuditSkipped: `unpack` failed: RuntimeError")
        assert "rank 1 does not understand" in ranks[1]["skipped"]

    def test_a_collective_that_one_rank_does_not_come_to_keeps_nobody_waiting(self, ended):
        _, ranks = ended["collective"]
        assert ranks[0]["weights"] == ended["none"][1][0]["weights"]
        assert "rank 1 does not come" in ranks[1]["skipped"]
        assert "another rank does not come to all_reduce" in ranks[0]["skipped"]

    def test_nor_do_samples_that_are_uneven(self, ended):
        _, ranks = ended["uneven"]  # two images on rank 0, whose second forward finds nobody there
        assert "another rank does not come to all_reduce" in ranks[0]["skipped"]
        assert ranks[1]["skipped"].startswith("rank 0 could not audit: RankMissing")

    def test_clocks_that_differ_do_not_part_the_ranks(self, ended):
        assert ended["overhead"][1][0]["weights"] == ended["none"][1][0]["weights"]

    @pytest.mark.skipif(find_spec("opacus") is None, reason="Opacus is not installed")
    @pytest.mark.parametrize("kind", ["own_opacus", "distributed_opacus"])
    def test_a_users_own_opacus_is_told_of_and_left_alone(self, ended, kind):
        folder, ranks = ended[kind]
        alone = ended[f"{kind}-none"][1]
        for rank, without in zip(ranks, alone, strict=True):
            assert rank["weights"] == without["weights"]
            assert rank["stream"] == without["stream"]
        told = (folder.parent / "rank_0.txt").read_text()
        if kind == "own_opacus":  # each process takes a step of its own, from what it alone has clipped and noised
            assert ranks[0]["weights"] != ranks[1]["weights"]
            assert "Opacus is at work, but its processes know nothing of each other" in told
            assert ranks[0]["skipped"] is None
            assert "defence" not in lines(folder)[0]  # of gradients as they are before Opacus has clipped them
        else:
            assert ranks[0]["weights"] == ranks[1]["weights"]
            assert "added up within its own step" in told
            assert all("differs from the recomputed gradient" in rank["skipped"] for rank in ranks)
            assert all("each has a gradient of its own" in rank["skipped"] for rank in ranks)
            assert not any("label smoothing" in rank["skipped"] for rank in ranks)
