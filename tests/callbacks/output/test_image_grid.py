"""The picture of an audit, pixel by pixel where it matters."""

import numpy as np
import pytest
import torch

from leakage_audit.attacks.base import Reconstruction
from leakage_audit.callbacks.output.image_grid import picture
from leakage_audit.callbacks.output.records import summary
from leakage_audit.figures.sheet import PAPER, RULE
from leakage_audit.readings.evaluation import AttackOutcome, Evaluation, LimitOutcome
from leakage_audit.scores.metrics import Scores

BLUE = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
GREY = torch.full((1, 3, 8, 8), 0.5)


def evaluation(out_of_time=False, limit=None):
    scores = Scores([0.1], [10.0], [58.0], [0.1], [0])
    result = Reconstruction(GREY, "a", {}, 1.0, True, "done", 0.0)
    outcomes = {"a": AttackOutcome(result, scores, out_of_time)}
    return Evaluation(
        torch.zeros(1, 3, 8, 8), [3], Scores([0.1], [9.0], [57.0], [0.1], [0]), None, outcomes, limit=limit
    )


def colours(shown):
    return {tuple(pixel) for pixel in shown.permute(1, 2, 0).reshape(-1, 3).tolist()}


def test_an_attack_without_a_result_is_hatched_and_says_why():
    shown, text = picture([evaluation(out_of_time=True)], "step 0")
    assert np.mean(shown.numpy() == 128) < 0.01  # the grey picture is not there
    assert {RULE, PAPER} <= colours(shown)
    assert "no result: out of time" in text
    ended, text = picture([evaluation()], "step 0")
    assert np.mean(ended.numpy() == 128) > 0.1
    assert "unrecognisable" in text


@pytest.mark.parametrize("solved", [True, False])
def test_what_the_gradient_determines_stands_under_the_truth(solved):
    plain, _ = picture([evaluation()], "step 0")
    shown, _ = picture([evaluation(limit=LimitOutcome([30.0], solved, BLUE))], "step 0")
    assert shown.shape[1] > plain.shape[1] + 150
    rows = (shown == torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1)).all(0).any(1).nonzero()
    assert rows.min() > plain.shape[1] // 4
    assert rows.max() < shown.shape[1] - 150


def test_a_low_limit_that_was_not_solved_is_hatched_without_a_word():
    cut_short, text = picture([evaluation(out_of_time=True, limit=LimitOutcome([9.0], False, GREY))], "step 0")
    assert np.mean(cut_short.numpy() == 128) < 0.01
    assert "unrecognisable" not in text
    solved, _ = picture([evaluation(out_of_time=True, limit=LimitOutcome([9.0], True, GREY))], "step 0")
    assert np.mean(solved.numpy() == 128) > 0.1


def test_an_attack_that_the_time_did_not_reach_has_its_row_in_the_summary():
    """In the text of TensorBoard, W&B and MLflow as in the picture: a row that is missing would not be missed."""
    found = evaluation()
    found.problems["late"] = "out of time: audit of 60 s"
    said = summary([found], {"optimizer_step": 3, "knowledge": "single images"})
    (row,) = [line for line in said.splitlines() if line.startswith("| 1 | late |")]
    assert row == "| 1 | late | no result: out of time: audit of 60 s | – | – | 9.0 | – | – |"
    assert "| 1 | a | unrecognisable | 10.0 | 0.10 | 9.0 | – | 1.0 |" in said
    del found.outcomes["a"]  # nothing was reached: that is said first
    said = summary([found], {"optimizer_step": 3, "knowledge": "single images"})
    assert said.startswith("**No result** at optimiser step 3")
    assert "Status: **unknown**" in said
    assert row in said.splitlines()


def batch(psnr):
    """One reconstruction an image, each image and its reconstruction in a blue of its own."""
    n = len(psnr)
    shades = (torch.arange(1, n + 1) / 20).view(n, 1, 1, 1).expand(n, 1, 8, 8)
    images = torch.cat([torch.zeros(n, 2, 8, 8), shades], 1)
    result = Reconstruction(images, "a", {}, 1.0, True, "done", 0.0)
    outcomes = {"a": AttackOutcome(result, Scores([0.1] * n, psnr, psnr, [0.1] * n, list(range(n))), False)}
    floor = Scores([0.1] * n, [9.0] * n, [57.0] * n, [0.1] * n, list(range(n)))
    return Evaluation(images, list(range(n)), floor, None, outcomes)


def test_of_many_images_those_that_leaked_most_and_least_are_shown():
    psnr = [10.0 + 0.1 * i for i in range(12)]
    psnr[10], psnr[11] = 40.0, 5.0
    shown, title = picture([batch(psnr)], "step 0")
    assert title.startswith("step 0, 8 of 12 images")
    seen = {blue for red, green, blue in colours(shown) if red == green == 0}
    shade = {i: round(255 * (i + 1) / 20) for i in range(12)}
    assert {i for i, blue in shade.items() if any(abs(blue - other) <= 1 for other in seen)} == {*range(6), 10, 11}
    assert title.index("40.0 dB") < title.index("5.0 dB")  # in the images' order


def test_the_summary_says_how_a_batch_fared():
    said = summary([batch([10.0, 40.0])], {"optimizer_step": 3, "knowledge": "the step's batch of 2"})
    assert "- a: 1 of 2 images are recognisable; most came back of image 2 (40.0 dB, recognisable)" in said
