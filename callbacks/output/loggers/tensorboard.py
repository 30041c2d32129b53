"""TensorBoard: described scalars, pictures, text, and charts that hold several numbers."""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch import Tensor
from typing_extensions import override

from leakage_audit.callbacks.output.loggers.display import Display, register
from leakage_audit.readings.metric_table import metric_of

LAYOUT_TAG = b"custom_scalars__config__"


@register("TensorBoardLogger")
class TensorBoard(Display):
    """By the logger's SummaryWriter."""

    @override
    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        # A logger that overrides `log_metrics` means to see the numbers itself.
        if type(self.logger).log_metrics.__qualname__.startswith("TensorBoardLogger."):
            self.logger.experiment.file_writer.add_summary(described(metrics), step)
        else:
            super().scalars(metrics, step)

    @override
    def image(self, name: str, image: Tensor, step: int, caption: str) -> bool:
        self.logger.experiment.add_image(name, image, step)
        return True

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.experiment.add_text(name, text, step)

    @override
    def lay_out(self, layout: Mapping[str, Mapping[str, list]], replace: bool) -> None:
        self.logger.experiment.flush()
        files = Path(self.logger.log_dir).glob("events.out.tfevents.*")
        if replace or not any(_holds(path, LAYOUT_TAG) for path in files):
            self.logger.experiment.add_custom_scalars(layout)

    @override
    def flush(self) -> None:
        self.logger.experiment.flush()


def described(metrics: Mapping[str, float]) -> Summary:
    """Scalars as TensorBoard's writer makes them, with the table's descriptions beside."""
    values = []
    for name, value in metrics.items():
        metric = metric_of(name)
        about = SummaryMetadata(
            summary_description="" if metric is None else metric.description,
            plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"),
        )
        values.append(Summary.Value(tag=name, simple_value=float(value), metadata=about))
    return Summary(value=values)


def _holds(path: Path, text: bytes) -> bool:
    """Whether a file holds some bytes; mapped, since a resumed run's may be large."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return data.find(text) >= 0
