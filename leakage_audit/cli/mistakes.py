"""What was wrong with the options, in one sentence: the cause, not what every alternative type would have said."""

import re
from collections.abc import Iterator

_ALTERNATIVES = re.compile(r"Does not validate against any of the Union.*?\nErrors:\n(.*)\nGiven value type:", re.S)
# What an alternative says that only is of another kind than the value: it has not come to the cause.
_OTHER_KIND = ("Not a valid subclass", "Expected a", "Expected an", "Expected one of")
_WAYS_OUT = {
    r"No module named": "install the package that has it, or correct the path",
    r"unsupported URI '\w*sql": "mlflow-skinny has no databases, install mlflow",
}


def plainest(mistake: BaseException) -> str:
    """The first of an exception and its causes that says one thing, in one line, with the way out if that is known.

    Args:
        mistake: As raised by the parser of the options, or by what they make.
    """
    said = next(filter(None, map(_one_thing, _causes(mistake))), str(mistake))
    line = " ".join(said.split())
    ways = [way for cause, way in _WAYS_OUT.items() if re.search(cause, line) and way not in line]
    return f"{line} ({ways[0]})" if ways else line


def _causes(mistake: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = mistake
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _one_thing(cause: BaseException) -> str | None:
    """What it says, if that is not the sum of several alternatives, or if one of these stands out.

    Only the first alternative is kept as a cause; a later one has left its words alone.
    """
    several = _ALTERNATIVES.search(str(cause))
    if several is None:
        return None if "Does not validate against any of the Union" in str(cause) else str(cause)
    alternatives = re.split(r"(?m)^  - ", several[1])[1:]
    at = [k for k, said in enumerate(alternatives) if not said.strip().startswith(_OTHER_KIND)]
    return alternatives[at[0]] if at and at[0] > 0 else None
