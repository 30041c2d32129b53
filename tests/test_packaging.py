import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOPS = ("leakage_audit", "callbacks")


def test_every_package_of_the_tree_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [path.parent.relative_to(ROOT) for top in TOPS for path in (ROOT / top).rglob("__init__.py")]
    names = [".".join(path.parts) for path in folders]
    assert sorted(listed) == sorted(f"leakage_audit.{x}" if x.startswith("callbacks") else x for x in names)


def test_no_file_is_longer_than_300_lines():
    files = [path for folder in ("leakage_audit", "callbacks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 300]


def test_the_engine_knows_nothing_of_the_callbacks():
    files = (ROOT / "leakage_audit").rglob("*.py")
    assert not [str(path) for path in files if "from leakage_audit.callbacks" in path.read_text()]


GITHUB = {"GITHUB_REPOSITORY": "some/place", "GITHUB_REF_NAME": "v9", "GITHUB_SERVER_URL": "https://host.example"}


def relative_links(text):
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]


@pytest.mark.parametrize("environment", [{}, GITHUB])
def test_the_readme_of_a_package_index_has_no_relative_link(environment):
    readme = (ROOT / "README.md").read_text()
    made = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["description"](readme, environment)
    assert relative_links(readme)
    assert not relative_links(made)
    assert "[below](#without-a-trainer)" in made
    assert ("![" in made) is bool(environment)
    for name in ("Start here", "Threat model", "What should I do?"):  # what a link said is still there
        assert name in made
    for kind, path in re.findall(r"https://host.example/some/place/(\w+)/v9/([^)#]+)", made):
        assert kind == ("raw" if path.endswith(".png") else "blob")
        assert (ROOT / path).exists()


@pytest.mark.slow
def test_the_wheel_carries_that_readme(tmp_path):
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for top in TOPS:
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | GITHUB
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    said = metadata.read_text()
    assert "Description-Content-Type: text/markdown" in said
    assert "](https://host.example/some/place/raw/v9/docs/audit.png)" in said
    assert not relative_links(said)
