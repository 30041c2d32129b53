"""`make lint` sees what goes on between the files of `callbacks/`, which lie elsewhere than they are installed."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WRONG = '''"""A call across two files that nobody may make."""

from leakage_audit.callbacks.evaluation.evaluate import evaluate

evaluate(1, 2, nonsense=6)
'''


@pytest.mark.slow
def test_a_wrong_call_across_two_files_of_the_callbacks_fails(tmp_path):
    for name in ("leakage_audit", "callbacks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "callbacks" / "wrong.py").write_text(WRONG)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".installed").touch()  # this environment's tools do
    command = ["make", "lint", f"VENV={tmp_path / 'venv'}", f"BIN={sysconfig.get_path('scripts')}"]
    # What `make lint` found out about libraries is not found out again.
    environment = os.environ | {"MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'Unexpected keyword argument "nonsense" for "evaluate"' in done.stdout, done.stdout + done.stderr
