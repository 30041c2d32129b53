"""Audits in the terminal: the last result on the progress bar, a bar of their own where they take long, a table."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm

from leakage_audit.callbacks.evaluation.results import Audit
from leakage_audit.readings.metric_table import PSNR
from leakage_audit.readings.reading import NO_RESULT, Status, shown_word
from leakage_audit.report.audits import attacked, never_ended, of_batches, of_images
from leakage_audit.scores.severity import EXACT_PSNR, SEVERITIES

COLOURS = dict(zip(SEVERITIES, ("default", "yellow", "dark_orange", "red"), strict=True))  # a low word is no safety
COLOURS |= {Status.LEAKS: "red", Status.OPEN: "dark_orange", Status.UNKNOWN: "yellow", Status.PROTECTED: "green"}


def show(trainer: Trainer, audit: Audit) -> None:
    """Put the last audit's status, its highest PSNR and how many images leaked on the progress bar, as one entry.

    It stands before the module's own numbers: a narrow terminal cuts off what is last, and a number that has lost its
    last digits would be a lower one.
    """
    if audit.status is None and audit.skipped is None:  # it was not to attack
        return
    # What an audit before found must not stand for this step.
    status = audit.status if audit.status is not None and audit.skipped is None else Status.UNKNOWN
    reached = [audit.metrics[PSNR.of(name)] for name in audit.severities]
    if status is Status.LEAKS:  # a proof counts however the attack ended
        reached += [psnr for psnr, _ in audit.no_results.values() if math.isfinite(psnr)]
    best = max(reached, default=None)
    said = NO_RESULT if best is None else "exact" if best >= EXACT_PSNR else f"{best:.1f} {PSNR.unit}"
    leaks, images = audit.leaked
    if status is Status.LEAKS and images > 1:
        said += f", {leaks}/{images}"
    shown: Any = trainer.progress_bar_metrics  # floats by its type, but bars show words as well
    others = {name: value for name, value in shown.items() if name not in set(Status)}
    shown.clear()
    shown.update({str(status): said} | others)


class _AuditProgress:
    """Shows how far an audit is once it has taken long; called by the attacks' budgets."""

    def __init__(self, bar: ProgressBar | None, after: float) -> None:
        self._after = after
        self._bar, self._began, self._shown = bar, time.perf_counter(), 0.0
        self._task: Any = None

    def __call__(self, what: str, done: float) -> None:
        now = time.perf_counter()
        if now - self._began < self._after or now - self._shown < 0.1:
            return
        self._shown = now
        if isinstance(self._bar, RichProgressBar) and self._bar.progress is not None:
            if self._task is None:
                self._task = self._bar.progress.add_task("", total=100)
            self._bar.progress.update(self._task, description=f"audit: {what}", completed=100 * done)
            self._bar.progress.refresh()
        elif isinstance(self._bar, TQDMProgressBar):
            if self._task is None:
                form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
                self._task = tqdm(total=100, leave=False, dynamic_ncols=True, bar_format=form, position=1)
            self._task.desc, self._task.n = f"audit: {what}", round(100 * done)
            self._task.refresh()

    def close(self) -> None:
        """Take the bar away again."""
        if isinstance(self._task, tqdm):
            self._task.close()
        elif self._task is not None and isinstance(self._bar, RichProgressBar) and self._bar.progress is not None:
            self._bar.progress.remove_task(self._task)


@contextmanager
def progress(trainer: Trainer, after: float = 3.0) -> Iterator[_AuditProgress]:
    """What attacks report to; shows nothing in the first seconds, or on a trainer without a progress bar."""
    voice = _AuditProgress(_bar(trainer), after)
    try:
        yield voice
    finally:
        voice.close()


def table(report: Mapping[str, Any]) -> Table:
    """What each attack got back over the whole fit.

    Args:
        report: As `report.json` has it.
    """
    verdict = report["verdict"]
    found = Table(
        title=f"{verdict['headline']}. {_gates(verdict['gates'])}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    found.add_column("attack", no_wrap=True)
    found.add_column("at its best", no_wrap=True)
    several = of_batches(report)
    # 80 columns hold one of the two; the word rests on the SSIM too, and the page has it.
    for name in ("PSNR, dB", "a guess", "images" if several else "SSIM", "step"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("last audit, dB", no_wrap=True)
    missing = (attacked(report["audits"]) or [{"no_result": {}}])[-1]["no_result"]
    for attack in report["attacks"]:
        best, last = attack["worst"]["highest"], attack["latest"]["highest"]
        shown = f"{last['psnr']:.1f} {_coloured(attack['latest']['word'])}"
        found.add_row(
            attack["name"],
            _coloured(attack["word"]),
            f"{best['psnr']:.1f}",
            f"{best['chance_psnr']:.1f}",
            of_images(attack["worst"]) if several else "–" if best["ssim"] is None else f"{best['ssim']:.2f}",
            str(attack["worst"]["step"]),
            shown if attack["name"] not in missing else escape(shown_word(None, missing[attack["name"]])),
        )
    for name, why in never_ended(report["audits"]).items():
        found.add_row(name, NO_RESULT, *["–"] * 4, escape(why))
    return found


def summarise(trainer: Trainer, report: Mapping[str, Any], path: Any) -> None:
    """Print the table and where the report is, if the fit has a progress bar; a silent fit stays silent."""
    bar = _bar(trainer)
    if bar is None:
        return
    console = bar.progress.console if isinstance(bar, RichProgressBar) and bar.progress is not None else Console()
    if attacked(report["audits"]):
        console.print(table(report))
    console.print(f"Leakage report: {path}", soft_wrap=True, highlight=False)


def _bar(trainer: Trainer) -> ProgressBar | None:
    """The trainer's progress bar, if it has one that shows on this rank."""
    bar = trainer.progress_bar_callback
    return bar if bar is not None and getattr(bar, "is_enabled", True) else None


def _coloured(word: str) -> str:
    return f"[{COLOURS[word]}]{word}[/]"


def _gates(state: str) -> str:
    return "" if state == "none" else f"Gates: {state}"
