"""The documentation's site builds without a warning, and the code on its pages runs."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from leakage_audit.callbacks.output.loggers.display import DISPLAYS
from leakage_audit.cli.command_line import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```" in page.read_text()]
# What makes a page's code cheap enough for a test.
CHEAPER = {
    "every_n_steps=20, samples=1": "every_n_steps=20, samples=1, max_seconds=1, limit=0",
    "max_steps=60": "max_steps=1, enable_progress_bar=False, enable_model_summary=False",
    '    print(f"{name}: {audit.latest.metrics[name]:.1f} dB")': "    pass",
}
RUN_BY_THE_README = {"fit", "report", "compare", "prior"}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(program):
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return sorted({line for line in lines if line.split()[:1] == [program]})


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("leakage_audit.callbacks.output.loggers.display.DISPLAYS", dict(DISPLAYS))
    (tmp_path / "audit.jsonl").write_text('{"step": 0, "metrics": {"audit/psnr/joint": 30.0}}\n')
    return tmp_path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    shutil.copytree(ROOT / "leakage_audit", tmp_path / "staged" / "leakage_audit")
    shutil.copytree(ROOT / "callbacks", tmp_path / "staged" / "leakage_audit" / "callbacks")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"STAGED": str(tmp_path / "staged"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site"): path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    limit = pages[Path("method/limit.html")]
    assert limit.count("<math") > 20
    assert "arithmatex" not in limit
    assert "LeakageAudit" in pages[Path("reference/callbacks.html")]
    for name, page in pages.items():  # nothing is asked of another host
        outside = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page)
        assert not [url for url in outside if "canonical" not in url], name
        assert '$<span class="formula">' not in page, name  # a displayed formula that was read as one in the line


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:You passed in a `val_dataloader`",
)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_a_page_s_code_runs_from_top_to_bottom(page, workplace):
    namespace = {}
    for code in blocks(page, "python"):
        for text, cheaper in CHEAPER.items():
            code = code.replace(text, cheaper)
        exec(compile(code, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_a_page_s_yaml_is_taken_by_the_command_line(page, workplace, capsys):
    for text in blocks(page, "yaml"):
        settings = yaml.safe_load(text)
        if "trainer" in settings:
            Path("page.yaml").write_text(text)
            with pytest.raises(SystemExit) as ended:
                main(["fit", "--config", "page.yaml", "--print_config"])
            assert not ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("line", commands("leakage-audit"))
def test_a_page_s_command_runs(line, workplace, capsys):
    _, command, *options = shlex.split(line, comments=True)
    if command in RUN_BY_THE_README:
        names = {option.partition("=")[0] for option in options if option.startswith("--")}
        assert all(name in (ROOT / "README.md").read_text() for name in names)
    else:
        assert main([command, *options]) == 0, capsys.readouterr().err


def test_every_command_is_of_a_kind_that_is_tested():
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    assert {line.split()[0] for line in lines} <= {
        "make",
        "leakage-audit",
        "tensorboard",
        "LEAKAGE_AUDIT='{every_n_steps:",
    }


def test_an_example_s_page_has_a_title_and_its_commands_as_code():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    for source in sorted((ROOT / "examples").glob("*.py")):
        title, *lines = hooks.as_page(source).splitlines()
        assert title.startswith("# "), source.name
        assert not title.endswith("."), source.name
        commands = [line for line in lines if re.search(r"^\s*(python examples/|tensorboard )", line)]
        assert all(line.startswith("    ") for line in commands), source.name
        assert all(line.endswith("--load_fast=false") for line in commands if "tensorboard" in line), source.name
