"""How the site reads docstrings: a section *Example* is code, not the box of text that the reader takes it for."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """`Example:` as `Examples:`; with two colons, before a block of code, as one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change what a docstring says before it is parsed."""
        if obj.docstring:
            text = _under_a_heading(_as_prompts(obj.docstring.value))
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)


def _under_a_heading(text: str) -> str:
    """Prompts that stand for themselves, in a section."""
    return re.sub(r"(?m)^>>> (?:.+\n?)+", lambda found: "Examples:\n" + re.sub(r"(?m)^(?=.)", "    ", found[0]), text)


def _as_prompts(text: str) -> str:
    """A block of code that begins with `Example::` as one that begins with `Examples:` and has prompts."""
    head, found, block = text.partition("Example::\n\n")
    if not found:
        return text
    code, rest = re.match(r"((?: {4}.*\n?|\n)*)(.*)", block, re.S).groups()  # type: ignore[union-attr]
    lines = [re.sub(r"^ {4}(?=\S)", "    >>> ", re.sub(r"^ {4}(?=\s)", "    ... ", line)) for line in code.splitlines()]
    return head + "Examples:\n" + "\n".join(lines) + "\n\n" + rest
