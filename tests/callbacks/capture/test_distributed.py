"""Two processes on gloo: each audits a share, both hear the results, and neither waits for one that failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "two_processes.py"


def run(folder, name, gradient="sample", attack="grey"):
    """What the two ranks hold afterwards; fails if they have not ended within two minutes."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), name, gradient, attack]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in (0, 1)]


def lines(folder):
    return [json.loads(line) for line in next(folder.rglob("audit.jsonl")).read_text().splitlines()]


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    return run(tmp_path_factory.mktemp("none"), "none", attack="none")


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
class TestTwoProcesses:
    @pytest.mark.parametrize("gradient", ["sample", "step"])
    def test_both_are_audited_and_nothing_changes(self, tmp_path, without, gradient):
        ranks = run(tmp_path, "audited", gradient)
        for rank, alone in zip(ranks, without, strict=True):
            assert rank["weights"] == alone["weights"]
            assert rank["stream"] == alone["stream"]
            assert rank["skipped"] is None
        assert ranks[0]["metrics"] == ranks[1]["metrics"]
        record = lines(tmp_path)[-1]
        assert record["ranks"] == 2
        assert record["verified"]["error"] < record["verified"]["tolerance"]
        if gradient == "sample":
            assert len(record["samples"]) == 3  # two on rank 0, one on rank 1
        else:
            assert len(record["samples"][0]["labels"]) == 8  # the batches of both

    def test_an_attack_that_fails_on_one_rank_is_noted(self, tmp_path, without):
        ranks = run(tmp_path, "fails", attack="fails")
        assert ranks[0]["weights"] == without[0]["weights"]
        record = lines(tmp_path)[-1]
        assert record["problems"] == {"fails": "RuntimeError: rank 1 has had enough"}
        assert [list(sample["attacks"]) for sample in record["samples"]] == [["fails"], ["fails"], []]

    def test_a_rank_that_cannot_read_its_batch_skips_the_audit_on_both(self, tmp_path, without):
        ranks = run(tmp_path, "unpack", attack="unpack")
        assert ranks[0]["weights"] == without[0]["weights"]
        assert ranks[0]["skipped"].startswith("rank 1 could not audit: AuditSkipped: `unpack` failed: RuntimeError")
        assert "rank 1 does not understand" in ranks[1]["skipped"]

    def test_a_collective_that_one_rank_does_not_come_to_keeps_nobody_waiting(self, tmp_path, without):
        ranks = run(tmp_path, "collective", attack="collective")
        assert ranks[0]["weights"] == without[0]["weights"]
        assert "rank 1 does not come" in ranks[1]["skipped"]
        assert "another rank does not come to all_reduce" in ranks[0]["skipped"]

    def test_nor_do_samples_that_are_uneven(self, tmp_path):
        ranks = run(tmp_path, "uneven", attack="uneven")
        assert "another rank does not come to all_reduce" in ranks[0]["skipped"]
        assert "runs the forward less often" in ranks[1]["skipped"]

    def test_clocks_that_differ_do_not_part_the_ranks(self, tmp_path, without):
        assert run(tmp_path, "overhead", attack="overhead")[0]["weights"] == without[0]["weights"]
