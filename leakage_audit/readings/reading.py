"""Two-sided reading of an audit: what an attack has proven to leak, and what the gradient could give away at most.

A low PSNR of an attack proves nothing by itself: the attack may have been too weak, or out of time. It is believed only
where the *limit*, the PSNR that the gradient determines, is low as well.
"""

from enum import StrEnum

from leakage_audit.scores.severity import SEVERITIES, severity

PROOF = SEVERITIES.index("recognisable")  # from this word on an image has leaked
NO_RESULT = "no result"
UNKNOWN_LIMIT = "not known: not solved to its end"


class Status(StrEnum):
    """What is known of an image, or of the worst of several."""

    LEAKS = "leaks"
    PROTECTED = "protected"
    OPEN = "open"
    UNKNOWN = "unknown"

    @property
    def meaning(self) -> str:
        """The status as a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    Status.LEAKS: "an attack got a recognisable image back",
    Status.PROTECTED: "the gradient does not determine a recognisable image, whoever attacks",
    Status.OPEN: "the gradient determines a recognisable image, but no attack got there: the attack failed, not the "
    "network",
    Status.UNKNOWN: "no attack got there, and what a better one could get is not known",
}
WORST_FIRST = (Status.LEAKS, Status.OPEN, Status.UNKNOWN, Status.PROTECTED)


def status(proven: str | None, ended_by_itself: bool, limit: str | None, limit_solved: bool) -> Status:
    """The status of one image.

    Args:
        proven: The word (`severity`) of the best reconstruction; None if there is none.
        ended_by_itself: Whether every attack came to its own end. Nothing is concluded from a low word in either case,
            only the limit says that an image is protected; a recognisable one is a proof however the attack ended.
        limit: The word of the limit (`limit_severity`); None where it was not computed.
        limit_solved: Whether the limit was solved to its end; otherwise it is a lower bound.

    Example::

        >>> str(status("silhouette", True, "silhouette", True)), str(status("silhouette", True, None, False))
        ('protected', 'unknown')
        >>> str(status("exact", False, None, False)), str(status(None, False, "exact", False))
        ('leaks', 'open')
    """
    if proven is not None and SEVERITIES.index(proven) >= PROOF:
        return Status.LEAKS
    if limit is None:
        return Status.UNKNOWN
    if SEVERITIES.index(limit) >= PROOF:  # a lower bound is enough
        return Status.OPEN
    return Status.PROTECTED if limit_solved else Status.UNKNOWN


def limit_severity(psnr: float, chance_psnr: float) -> str:
    """The word for an image that is determined to `psnr` dB; by its PSNR alone, since a limit has no SSIM.

    Example::

        >>> limit_severity(30.0, 12.0)
        'recognisable'
    """
    return severity(psnr, 0.0, chance_psnr, 0.0)


def limit_says(psnr: float, chance_psnr: float, solved: bool) -> str:
    """What stands beside a limit: its number and word; of a lower bound only what it proves.

    Args:
        psnr: The limit, in dB.
        chance_psnr: PSNR of the guess.
        solved: Whether it was solved to its end.

    Example::

        >>> limit_says(13.0, 12.0, True), limit_says(30.0, 12.0, False), limit_says(13.0, 12.0, False)
        ('13.0 dB, unrecognisable', 'at least 30.0 dB, recognisable', 'not known: not solved to its end')
    """
    word = limit_severity(psnr, chance_psnr)
    if not solved and SEVERITIES.index(word) < PROOF:
        return UNKNOWN_LIMIT
    return f"{'' if solved else 'at least '}{psnr:.1f} dB, {word}"


def shown_word(proven: str | None, reason: str | None) -> str:
    """What stands beside an attack's number: its severity, or why there is none.

    Args:
        proven: The severity of its reconstruction.
        reason: Why the attack did not end by itself; None if it did. Then no severity stands for it.

    Example::

        >>> shown_word("unrecognisable", "out of time")
        'no result: out of time'
    """
    if reason is not None or proven is None:
        return f"{NO_RESULT}: {reason or 'no reconstruction'}"
    return proven


def worst(found: "list[Status]") -> Status:
    """The status of several images together; unknown if there are none.

    Example::

        >>> str(worst([Status.PROTECTED, Status.UNKNOWN]))
        'unknown'
    """
    return min(found, key=WORST_FIRST.index, default=Status.UNKNOWN)
