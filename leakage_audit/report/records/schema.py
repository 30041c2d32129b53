"""JSON schemas made from the records' types, and the same types asked of a value that was read."""

import types
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

Json = dict[str, Any]
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema(kinds: Any, title: str) -> Json:
    """The schema (draft 2020-12) of a TypedDict, or of a union of some.

    Args:
        kinds: Of TypedDicts, literals, lists, dictionaries by string, unions and plain values; `Annotated` with a
            sentence describes a field, a docstring a whole.
        title: Of the schema.
    """
    defined: Json = {}
    body = _schema(kinds, defined)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return {**head, **body, "$defs": dict(sorted(defined.items()))}


def _schema(kind: Any, defined: Json) -> Json:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return {**_schema(inside[0], defined), "description": inside[1]}
    if is_typeddict(kind):
        if kind.__name__ not in defined:
            defined[kind.__name__] = {}  # types may refer to themselves
            fields = {name: _schema(field, defined) for name, (field, _) in fields_of(kind).items()}
            required = [name for name, (_, needed) in fields_of(kind).items() if needed]
            about = " ".join((kind.__doc__ or "").split())
            defined[kind.__name__] = {
                "type": "object",
                "description": about,
                "properties": fields,
                "required": required,
            }
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is Literal:
        return {"enum": list(inside)}
    if origin is list:
        return {"type": "array", "items": _schema(inside[0], defined)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inside[1], defined)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part, defined) for part in inside]}
    return {"type": _PLAIN[kind]} if kind in _PLAIN else {}


@cache
def fields_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """A TypedDict's fields: their type, and whether they must be there."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        needed = get_origin(hint) is not NotRequired
        found[name] = (get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint, needed)
    return found


def mismatch(value: Any, kind: Any, where: str = "line") -> str | None:
    """What about a value that was read is not of its type, in words; None if it is. Unknown fields are let through.

    Args:
        value: As `json.loads` gives it.
        kind: A TypedDict or what one is made of.
        where: What the value is called.

    Example::

        >>> from leakage_audit.report.records.audit_lines import GateLine
        >>> mismatch({"kind": "gate", "step": "x"}, GateLine)
        'line.step is not an int'
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return mismatch(value, inside[0], where)
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return f"{where} is not an object"
        fields = fields_of(kind)
        missing = [name for name, (_, needed) in fields.items() if needed and name not in value]
        if missing:
            return f"{where} has no {missing[0]}"
        return _first(mismatch(value[x], fields[x][0], f"{where}.{x}") for x in fields if x in value)
    if origin is Literal:
        return None if value in inside else f"{where} is none of {', '.join(map(str, inside))}"
    if origin is list:
        if not isinstance(value, list):
            return f"{where} is not a list"
        return _first(mismatch(x, inside[0], f"{where}[{i}]") for i, x in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            return f"{where} is not an object"
        return _first(mismatch(x, inside[1], f"{where}[{name!r}]") for name, x in value.items())
    if origin in (Union, types.UnionType):
        found = [mismatch(value, part, where) for part in inside if part is not type(None)]
        return None if (value is None and type(None) in inside) or None in found else found[0]
    if kind is Any:
        return None
    fits = isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    return None if fits else f"{where} is not {'an' if kind is int else 'a'} {kind.__name__}"


def _first(found: Any) -> str | None:
    return next((x for x in found if x is not None), None)
