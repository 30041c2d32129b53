"""The two-sided reading, against issue-like prose written out as a table, and over all combinations."""

from itertools import product

import pytest

from leakage_audit.readings.reading import Status, limit_severity, shown_word, status, worst
from leakage_audit.scores.severity import SEVERITIES

LOW, HIGH = SEVERITIES[:2], SEVERITIES[2:]


WORDS = [None, *SEVERITIES]


@pytest.mark.parametrize(
    ("proven", "ended", "limit", "solved"), list(product(WORDS, [True, False], WORDS, [True, False]))
)
def test_every_combination(proven, ended, limit, solved):
    found = status(proven, ended, limit, solved)
    assert (found == Status.LEAKS) == (proven in HIGH)
    if proven not in HIGH:
        assert (found == Status.PROTECTED) == (limit in LOW and solved)
        assert (found == Status.OPEN) == (limit in HIGH)
        assert (found == Status.UNKNOWN) == (limit is None or (limit in LOW and not solved))


def test_severity_words_never_stand_for_an_attack_that_did_not_end():
    for word in SEVERITIES:
        assert shown_word(word, None) == word
        assert shown_word(word, "out of time") == "no result: out of time"
    assert shown_word(None, None).startswith("no result")


def test_a_limit_is_held_against_the_guess():
    assert limit_severity(17.9, 12.0) == "silhouette"
    assert limit_severity(18.0, 12.0) == "recognisable"
    assert limit_severity(13.0, 12.0) == "unrecognisable"


def test_of_several_images_the_least_safe_counts():
    assert worst([]) is Status.UNKNOWN
    assert worst([Status.PROTECTED, Status.OPEN, Status.UNKNOWN]) is Status.OPEN
    assert worst(list(Status)) is Status.LEAKS
    assert worst([Status.PROTECTED]) is Status.PROTECTED
