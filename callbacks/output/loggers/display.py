"""What a logger can show of an audit: one class a kind of logger, found by the name of the logger's class."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from leakage_audit.callbacks.capture.supported_trainers import is_kind

DISPLAYS: dict[str, type["Display"]] = {}


def register(logger: str) -> Callable[[type["Display"]], type["Display"]]:
    """Make a display known for loggers of a class of this name, or of one below it.

    Args:
        logger: The class's name, such as `WandbLogger`. By its name, because Lightning is installed under two, and
            because most loggers are not installed.

    Example:
        >>> @register("PrintingLogger")
        ... class Printing(Display):
        ...     def text(self, name, text, step):
        ...         print(step, name, text)
        >>> class PrintingLogger: ...
        >>> display_of(PrintingLogger()).text("audit/summary", "it leaks", 7)
        7 audit/summary it leaks
    """

    def keep(display: type["Display"]) -> type["Display"]:
        DISPLAYS[logger] = display
        return display

    return keep


def display_of(logger: Any) -> "Display":
    """The display that is registered for a logger; one that shows scalars alone if none is."""
    # The last one wins: what a user registers comes after what is here.
    for name, display in reversed(DISPLAYS.items()):
        if is_kind(logger, name):
            return display(logger)
    return Display(logger)


class Display:
    """Scalars by the logger's own `log_metrics`, and nothing else; override what a logger can do beyond that.

    Args:
        logger: Of either Lightning.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        self.logger.log_metrics(dict(metrics), step=step)

    def image(self, name: str, image: Tensor, step: int, caption: str) -> bool:
        """Take a picture `(3, H, W)`, uint8 or floating in [0, 1]; say whether it was taken."""
        return False

    def text(self, name: str, text: str, step: int) -> None:
        """Take Markdown, if the logger shows text."""

    def lay_out(self, layout: Mapping[str, Mapping[str, list]], replace: bool) -> None:
        """Show several numbers in one chart, if the logger can; see `lay_out_charts`."""

    def flush(self) -> None:
        """Let what was logged appear now."""
