"""Lightning's progress bar on one line: where the terminal is narrow, the bar gives way and not the numbers."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import MetricsTextColumn
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.table import Column
from rich.text import Text
from typing_extensions import override

WIDE = 100  # columns of a terminal from which on there is room for the speed, too
NUMBERS = 74  # columns that are kept for all but the bar: epoch, batches and time take 37, the numbers as many
LONGEST, SHORTEST = 40, 6  # columns of the bar; the longest is Lightning's


class _OnOneLine(MetricsTextColumn):
    """The numbers, cut off at the terminal's edge instead of continued on the next line."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class OneLineProgressBar(RichProgressBar):
    """Lightning's `RichProgressBar` on one line, in a terminal of 80 columns too.

    Lightning's own breaks into three or more lines there. This one shortens its bar, leaves out the speed where there
    is no room for it, and the version's number, which is part of the log directory's name. `leakage-audit fit` uses it
    unless another is among the callbacks. It takes the arguments of `RichProgressBar`.

    Example::

        L.Trainer(callbacks=[LeakageAudit(), OneLineProgressBar()])
    """

    @override
    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        width = (self._console or Console()).width
        columns = super().configure_columns(trainer)[: None if width >= WIDE else -1]
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = min(LONGEST, max(SHORTEST, width - NUMBERS))
            column._table_column = Column(no_wrap=True)  # only the numbers give way
        theme = self.theme
        self._metric_component = _OnOneLine(trainer, theme.metrics, theme.metrics_text_delimiter, theme.metrics_format)
        return columns

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        found: dict[str, Any] = super().get_metrics(trainer, pl_module)
        found.pop("v_num", None)
        return found
