"""What the site's builder is asked beside its settings: formulas as MathML, and examples as pages."""

import html
import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from leakage_audit.cli import main

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
TAG = re.compile(r"\\tag\{(.*?)\}")
HELP = re.compile(r"<!-- help: (\w+) -->")


def on_page_markdown(text: str, **_: Any) -> str:
    """The commands' own help and the list of examples, where a page asks for them; formulas as paragraphs."""
    text = re.sub(r"(?m)^((?:> )?)(\$\$.*)$", r"\1\n\1\2", text)
    text = re.sub(r"(?m)^((?:> )?)(\$\$.+\$\$)$", r"\1\2\n\1", text)
    return (
        HELP.sub(lambda found: f"```text\n{_help(found[1])}```", text)
        .replace("<!-- examples -->", _examples())
        .replace("<!-- changes -->", (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "]("))
    )


def _help(command: str) -> str:
    said = io.StringIO()
    os.environ["COLUMNS"] = "80"  # as many as the page shows
    with redirect_stdout(said):
        try:
            main([command, "--help"])
        except SystemExit as ended:
            if ended.code:
                raise
    return re.sub(r"\x1b\[[0-9;]*m|.\x08", "", said.getvalue())  # neither colours nor what a backspace takes away


def _examples() -> str:
    rows = [f"- [{_title(source)}](examples/{source.stem}.md)" for source in _sources()]
    return "\n".join(rows)


def _sources() -> list[Path]:
    return sorted((ROOT / "examples").glob("*.py"))


def _title(source: Path) -> str:
    return as_page(source).partition("\n")[0].removeprefix("# ")


def on_page_content(text: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw themselves: no script and nothing from another host."""
    return FORMULA.sub(_formula, text)


def _formula(found: re.Match[str]) -> str:
    latex = html.unescape(found[2]).strip()
    display = latex.startswith(r"\[")
    latex = latex[2:-2].strip()
    tag = TAG.search(latex)
    drawn = convert(_known(TAG.sub("", latex)), display="block" if display else "inline")
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    return f'<{found[1]} class="formula">{drawn}{number}</{found[1]}>'


def _known(latex: str) -> str:
    """Commands that the converter lacks, by those that it has."""
    return re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", latex).replace(r"\thinspace", r"\,")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """A page for each example: its text, and its code as it is."""
    for source in _sources():
        files.append(File.generated(config, f"examples/{source.stem}.md", content=as_page(source)))
    return files


def as_page(source: Path) -> str:
    """An example as Markdown: the cells of a notebook, or the file's own text and then its code."""
    text = source.read_text()
    if "# %%" in text:
        page = jupytext.writes(jupytext.reads(text, fmt="py:percent"), fmt="md").split("---\n", 2)[-1]
        return re.sub(r"(?m)^```python .*$", "```python", page).lstrip()
    said, code = re.match(r'"""(.*?)"""\n(.*)', text, re.S).groups()  # type: ignore[union-attr]
    title, _, rest = said.strip().partition("\n")
    return f"# {title.removesuffix('.')}\n\n{rest}\n\n```python\n{code.strip()}\n```\n"
