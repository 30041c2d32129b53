import base64
import json
import re
from html.parser import HTMLParser

import pytest
from runs import STEPS, audit, gate, skipped, three, violations, write

from leakage_audit.report import write_report
from leakage_audit.report.page import PICTURES, _gallery, choose

VOID = {"meta", "img", "line", "rect", "path", "polyline", "br"}


class StepReader(HTMLParser):
    """Tags that are opened and closed, text outside of style, pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.pictures, self.addresses = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                (self.pictures if value.startswith("data:") else self.addresses).append(value)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(folder):
    html = write_report(folder)["html"].read_text(encoding="utf-8")
    reader = StepReader()
    reader.feed(html)
    assert reader.open == []
    assert reader.addresses == []
    assert "<script" not in html
    assert not re.search(r"https?://|url\(|@import", html)
    return " ".join(reader.text), reader.pictures, html


def test_the_verdict_comes_first(tmp_path):
    text, _, html = read(three(tmp_path))
    assert text.index("Training images came back exactly") < text.index("The course of the fit")
    assert html.index("<h1>") < html.index("<h2>")
    assert '<li class="here">exact</li>' in html


def test_everything_that_was_asked_for_is_there(tmp_path):
    text, pictures, _ = read(three(tmp_path, gate(violations(25.0), verdict="exceeded")))
    for words in (
        "PSNR, dB",
        "Loss",
        "Accuracy",
        "Gates",
        "What each attack got back",
        "The images",
        "Layer by layer",
    ):
        assert words in text
    for words in (
        "What the attacker was assumed to know",
        "labels not granted",
        "How to reproduce",
        "seed=0",
        "torch 2.15.0",
    ):
        assert words in text
    assert len(pictures) == 4  # one an audit, and again that of the verdict
    assert base64.b64decode(pictures[0].partition(",")[2])[:4] == b"\x89PNG"


def test_a_psnr_never_stands_without_what_a_guess_scores(tmp_path):
    text, _, _ = read(three(tmp_path))
    assert "where a guess scores 12.0 dB" in text
    assert "a guess" in text[text.index("What each attack got back") :]


def test_a_batch_says_how_many_images_came_back(tmp_path):
    record = audit(0, {"rgap": 0.0}, gradient="step")
    (sample,) = record["samples"]
    sample["floor"] = {"psnr": [12.0] * 3, "ssim": [0.2] * 3}
    sample["attacks"]["rgap"] |= {"psnr": [19.0, 60.0, 13.0], "ssim": [0.2] * 3, "order": [0, 1, 2]}
    text, _, _ = read(write(tmp_path / "batch", record))
    assert "2 of 3 least: 13.0 dB" in text
    single, _, _ = read(three(tmp_path / "single"))
    assert "<th>recognisable" not in single


def test_a_run_without_pictures(tmp_path):
    text, pictures, _ = read(three(tmp_path, pictures=False))
    assert not pictures
    assert "The images" not in text


def test_a_run_without_curves_or_scores(tmp_path):
    text, _, _ = read(write(tmp_path, skipped(0), skipped(20), curves=False, pictures=False))
    assert "No attack was scored" in text
    assert "2 of 2 audits were skipped" in text
    assert "FloatingPointError: NaN (2 times, first at step 0)" in re.sub(r"\s+", " ", text).replace(" :", ":")


def test_a_run_that_was_killed(tmp_path):
    text, _, _ = read(write(tmp_path, audit(0), tail='{"schema": 1, "ki'))
    assert "the run was killed while it wrote" in text


def test_how_to_reproduce_names_the_configuration(tmp_path):
    three(tmp_path)
    (tmp_path / "config.yaml").write_text("trainer:\n")
    assert "leakage-audit fit --config" in read(tmp_path)[0]


def test_what_stands_in_the_files_cannot_break_the_page(tmp_path):
    evil = '<img src="//x"><script>alert(1)</script>'
    text, _, html = read(
        write(tmp_path, audit(0, {evil: 20.0}, knowledge=evil, problems={evil: evil}), skipped(5, evil))
    )
    assert text.count("alert(1)") >= 5
    assert "<script" not in html


def test_the_first_the_last_and_the_worst_picture_are_chosen():
    report = {"verdict": {"worst": {"step": 777}}}
    chosen = choose(report, range(1000))
    assert {0, 777, 999} <= set(chosen)
    assert len(chosen) == PICTURES
    assert choose(report, [5]) == [5]
    assert choose({"verdict": {"worst": None}}, []) == []


def test_pictures_too_heavy_for_a_page_are_left_out_the_verdicts_last(tmp_path, monkeypatch):
    monkeypatch.setattr("leakage_audit.report.page.BYTES", 100)
    _, pictures, _ = read(three(tmp_path))
    assert len(pictures) == 1  # beside the verdict, and not again below


@pytest.mark.parametrize(("width", "pairs"), [(440, True), (700, False)])
def test_small_pictures_stand_side_by_side(width, pairs):
    report = {"verdict": {"worst": None}, "audits": [{"step": 0, "attacks": {}, "no_result": {"joint": "out of time"}}]}
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + width.to_bytes(4) + (9).to_bytes(4)
    page = _gallery(report, {0: png, 5: png})
    assert ('class="pictures pairs"' in page) is pairs
    assert "<b>Step 0</b><span>joint: no result, out of time</span>" in page


@pytest.mark.slow
def test_ten_thousand_audits(tmp_path):
    text = json.dumps(audit(0))
    step = json.dumps({"step": 0})[1:-1]
    lines = [text.replace(step, json.dumps({"step": 10 * k})[1:-1]) for k in range(10_000)]
    write(tmp_path, *(audit(step) for step in STEPS))
    (tmp_path / "audit.jsonl").write_text("\n".join(lines))
    paths = write_report(tmp_path)
    assert paths["html"].stat().st_size < 20e6
    assert len(json.loads(paths["json"].read_text())["audits"]) == 10_000
