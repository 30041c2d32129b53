import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from leakage_audit.data.pictures import Drawn
from leakage_audit.data.synthetic import SCENES
from leakage_audit.scores.metrics import Scores, chance_floor, score
from leakage_audit.scores.severity import EXACT_PSNR, SEVERITIES, most_severe, severities, severity

decibel, similarity = st.floats(-300, 300), st.floats(-1, 1)


@pytest.mark.parametrize(
    ("psnr", "ssim", "expected"),
    [
        (148.9, 1.0, "exact"),
        (38.0, 0.99, "recognisable"),
        (24.0, 0.1, "recognisable"),  # under noise: gain
        (13.0, 0.53, "recognisable"),  # faded: SSIM
        (17.0, 0.2, "silhouette"),
        (13.0, 0.35, "silhouette"),
        (15.9, 0.27, "unrecognisable"),
        (-57.5, 0.0, "unrecognisable"),
        (-300.0, -1.0, "unrecognisable"),
    ],
)
def test_a_word_for_each_range(psnr, ssim, expected):
    assert severity(psnr, ssim, chance_psnr=14.0, chance_ssim=0.2) == expected


@given(decibel, similarity, decibel, similarity, st.floats(0, 100), st.floats(0, 1))
def test_a_better_reconstruction_never_has_a_milder_word(psnr, ssim, chance_psnr, chance_ssim, more, nearer):
    before = severity(psnr, ssim, chance_psnr, chance_ssim)
    after = severity(psnr + more, ssim + nearer * (1 - ssim), chance_psnr, chance_ssim)
    assert SEVERITIES.index(after) >= SEVERITIES.index(before)


@given(st.floats(-300, EXACT_PSNR - 1e-6), similarity)
def test_what_scores_like_a_guess_is_unrecognisable(psnr, ssim):
    assert severity(psnr, ssim, psnr, ssim) == "unrecognisable"


def test_exact_is_what_rounding_to_8_bits_restores():
    stored = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).double() / 255
    below, above = (stored + amount / 255 for amount in (0.499, 0.501))
    assert torch.equal((below * 255).round(), (stored * 255).round())
    assert not torch.equal((above * 255).round(), (stored * 255).round())
    floor = chance_floor(None, stored)
    assert severities(score(below, stored), floor) == ["exact"]
    assert severities(score(above, stored), floor) == ["recognisable"]


def test_pictures_that_get_worse_get_milder_words():
    drawn = Drawn(tuple(SCENES), range(20), 32, 0)
    truth = torch.stack([drawn.load(i) for i in range(20)]).double() / 255
    mean = truth.mean(0)
    floor = chance_floor(mean, truth)

    def rank(images):
        each = (
            severities(score(image, one), Scores(*([x] for x in values), [0]))
            for image, one, *values in zip(
                images, truth, floor.mse, floor.psnr, floor.psnr_255, floor.ssim, strict=True
            )
        )
        return sum(SEVERITIES.index(found) for (found,) in each) / len(truth)

    blurred = [F.avg_pool2d(truth, 2 * k + 1, 1, k, count_include_pad=False) for k in (1, 4, 12)]
    faded = [mean + share * (truth - mean) for share in (0.9, 0.3, 0.02)]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=truth.dtype)
    noisy = [truth + sigma * noise for sigma in (0.03, 0.12, 1.0)]
    for family in (blurred, faded, noisy):
        ranks = [rank(images) for images in family]
        assert ranks == sorted(ranks, reverse=True)
        assert ranks[0] > 1.7  # nearly all are recognisable
    assert rank(faded[2]) == rank(noisy[2]) == 0
    assert rank(mean.expand_as(truth)) == 0


def test_words_follow_the_matching():
    scores = Scores([0.0, 0.0], [30.0, 30.0], [0.0, 0.0], [0.3, 0.3], order=[1, 0])
    floor = Scores([0.0, 0.0], [29.0, 12.0], [0.0, 0.0], [0.3, 0.3], order=[0, 1])
    assert severities(scores, floor) == ["recognisable", "unrecognisable"]


def test_the_worst_word_is_the_one_that_leaks_most():
    assert most_severe(["silhouette", "exact", "unrecognisable"]) == "exact"
    with pytest.raises(ValueError, match="empty"):
        most_severe([])
