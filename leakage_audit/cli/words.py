"""Lists as options give them: separated by commas, or as lists in a YAML file."""

from collections.abc import Sequence

Several = str | list[str]


def words(given: Several) -> list[str]:
    """Words.

    >>> words("a,b")
    ['a', 'b']
    """
    return given if isinstance(given, list) else given.split(",")


def pairs(option: str, given: Several | None) -> dict[str, str]:
    """Words of the form name=value.

    Raises:
        ValueError: If one is of another form.
    """
    parts = [part.partition("=") for part in words(given or "") if part]
    if not all(name and value for name, _, value in parts):
        raise ValueError(f"{option} must be name=value, separated by commas, got {given!r}")
    return {name: value for name, _, value in parts}


def numbers(option: str, given: str | float | Sequence[float], kind: type) -> list:
    """Numbers of a kind.

    Raises:
        ValueError: If one is no number.
    """
    if isinstance(given, int | float):
        return [kind(given)]
    try:
        return [kind(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except ValueError:
        raise ValueError(f"{option} must be numbers separated by commas, got {given!r}") from None
