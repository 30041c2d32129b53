import tomllib
from pathlib import Path

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
