"""A clock that passes through a network move: how long something takes is then a number of passes."""

from typing import ClassVar

from torch import nn

from leakage_audit.runtime import Budget


class Clock(Budget):
    """One that `Ticks` moves; its shares are moved too."""

    now: ClassVar[list[float]] = [0.0]

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.begun = self.now[0]

    @property
    def spent(self):
        return self.now[0] - self.begun

    def share(self, part=1.0):
        given = super().share(part)
        shared = Clock(given.seconds, memory_gb=self.memory_gb)
        shared._unit, shared._held = self._unit, self._held
        return shared


class Ticks(nn.Module):
    """A part that does nothing, in as many seconds as what it is given has batches."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def forward(self, x):
        Clock.now[0] += len(x) / self.batch
        return x
