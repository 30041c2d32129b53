"""The long description of wheel and sdist: the README, with links that lead somewhere from a package index too.

Everything else stands in pyproject.toml. On GitHub, where releases are built, relative links are made absolute, at the
commit or tag that is built. Elsewhere nobody knows where the repository will be: pictures are left out, and of links
the text is kept.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from setuptools import setup

PICTURE = re.compile(r"!\[[^]]*\]\(((?!https?:)[^)]+)\)\n*")
LINK = re.compile(r"(?<!!)\[([^]]+)\]\(((?!https?:|#)[^)]+)\)")


def description(readme: str, environment: Mapping[str, str]) -> str:
    """The README for a package index.

    Args:
        readme: Markdown, links relative to the repository's top.
        environment: Variables of the process; GitHub's say which repository and commit is built.
    """
    if "GITHUB_REPOSITORY" not in environment:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    host = environment.get("GITHUB_SERVER_URL", "https://github.com")
    place, commit = f"{host}/{environment['GITHUB_REPOSITORY']}", environment.get("GITHUB_REF_NAME", "HEAD")
    pictures = re.sub(r"(!\[[^]]*\]\()((?!https?:)[^)]+\))", rf"\1{place}/raw/{commit}/\2", readme)
    return LINK.sub(rf"[\1]({place}/blob/{commit}/\2)", pictures)


if __name__ == "__main__":
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    setup(long_description=description(text, os.environ), long_description_content_type="text/markdown")
