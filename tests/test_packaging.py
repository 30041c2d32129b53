import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_of_the_tree_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    engine = [path.parent.relative_to(ROOT) for path in (ROOT / "leakage_audit").rglob("__init__.py")]
    assert sorted(listed) == sorted([".".join(path.parts) for path in engine] + ["leakage_audit.callbacks"])


def test_no_file_is_longer_than_300_lines():
    files = [path for folder in ("leakage_audit", "callbacks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 300]


def test_the_engine_knows_nothing_of_the_callbacks():
    files = (ROOT / "leakage_audit").rglob("*.py")
    assert not [str(path) for path in files if "from leakage_audit.callbacks" in path.read_text()]
