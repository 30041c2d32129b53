"""What stands in for loggers, experiment trackers and optimisers while an audit runs the user's code."""

from collections.abc import Iterator
from typing import Any


class Silent:
    """Takes every call and every attribute, does nothing, and says nothing to anybody.

    >>> Silent().experiment.add_scalar("loss", 0.5, step=3).name
    Silent()
    """

    def __getattr__(self, name: str) -> "Silent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __getitem__(self, key: Any) -> "Silent":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __call__(self, *args: Any, **kwargs: Any) -> "Silent":
        """Do nothing."""
        return self

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __repr__(self) -> str:
        return "Silent()"
