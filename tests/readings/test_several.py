"""A whole batch's numbers and sentences, against counts made by hand: a guess scores 12 dB, recognisable are 18."""

import pytest
from evaluations_by_hand import evaluation, outcome

from leakage_audit.readings.evaluation import determined_count, leaked
from leakage_audit.readings.metric_table import read_all
from leakage_audit.readings.several import positions, sentences

PSNR = [20.0, 13.0, 60.0, 17.9]  # recognisable, unrecognisable, exact, silhouette
LIMIT = [40.0, 12.5, 61.0, 18.5]


def test_the_numbers_of_a_batch():
    found = read_all([evaluation({"a": outcome(PSNR)}, LIMIT)])
    assert (found["audit/psnr/a"], found["audit/psnr_least/a"]) == (60.0, 13.0)
    assert found["audit/recognisable/a"] == 2 / 4
    assert found["audit/recognisable_limit"] == 3 / 4
    assert found["audit/limit"] == 61.0
    assert found["audit/limit_mean"] == pytest.approx(132.0 / 4)


def test_a_batch_and_its_images_one_by_one_have_the_same_numbers():
    alone = [evaluation({"a": outcome([psnr])}, [limit]) for psnr, limit in zip(PSNR, LIMIT, strict=True)]
    assert read_all(alone) == read_all([evaluation({"a": outcome(PSNR)}, LIMIT)])
    assert sentences(alone) == sentences([evaluation({"a": outcome(PSNR)}, LIMIT)])


def test_reconstructions_are_counted_as_the_images_that_they_were_matched_with():
    mixed = outcome(PSNR)
    mixed.scores.order[:] = [3, 0, 1, 2]
    assert positions([evaluation({"a": mixed}, LIMIT)], "a") == {"most": 1, "least": 0}


def test_the_sentences():
    first, second = sentences([evaluation({"a": outcome(PSNR)}, LIMIT)])
    assert first == (
        "a: 2 of 4 images are recognisable; most came back of image 3 (60.0 dB, exact), least of image 2 (13.0 dB, "
        "unrecognisable)."
    )
    assert second == "The gradient determines 3 of 4 images recognisably: 12.5 to 61.0 dB, 33.0 in the mean."
    assert sentences([evaluation({"a": outcome([20.0])}, [30.0])]) == []  # there is nothing to tell apart


def test_what_did_not_end_by_itself_is_no_share_and_no_least():
    evaluations = [evaluation({"a": outcome([60.0])}), evaluation({"a": outcome([14.0], out_of_time=True)})]
    found = read_all(evaluations)
    assert not {"audit/psnr_least/a", "audit/recognisable/a", "audit/recognisable_limit"} & found.keys()
    assert sentences(evaluations) == []
    assert leaked(evaluations) == (1, 2)  # that is proven
    failed = [evaluation({"a": outcome([60.0])}), evaluation({"b": outcome([14.0])})]  # a has no image of the second
    assert "audit/recognisable/a" not in read_all(failed)


def test_an_unsolved_limit_is_a_lower_bound():
    evaluations = [evaluation({"a": outcome(PSNR)}, LIMIT, solved=False)]
    assert not {"audit/recognisable_limit", "audit/limit_mean"} & read_all(evaluations).keys()
    assert determined_count(evaluations) == (3, 4)
    assert sentences(evaluations)[1].startswith("The gradient determines at least 3 of 4")
