"""What a specimen of the zoo is: a module, its data, and what an audit must make of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.data import pictures


@dataclass(frozen=True)
class Case:
    """A specimen.

    Attributes:
        name: Unique in the zoo.
        module: Makes the LightningModule; weights come from torch's global stream.
        data: Makes a DataLoader or a LightningDataModule.
        trainer: Arguments of the Trainer beyond those of `fitting.fit`.
        audit: Arguments of LeakageAudit likewise.
        refused: What a sentence must match with which every audit is skipped; None where each must take place.
        cure: Arguments of LeakageAudit with which a refused module is audited after all.
        warns: What a logged warning must match.
        alone: Whether the step's gradient is the mean over single images' in eval mode: no dropout, no batch
            normalisation, no loss that couples images.
        scale: The step's gradient in units of that of the loss; not 1 where training_step scales the loss.
        normalised: Mean and standard deviation that must be found in the data; None if it does not matter.
        chain: Whether the network can be read layer by layer, so that c(M) and R-GAP must have nothing to complain of.
    """

    name: str
    module: Callable[[], Any]
    data: Callable[[], Any] = pictures
    trainer: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None
    cure: Mapping[str, Any] | None = None
    warns: str | None = None
    alone: bool = True
    scale: float = 1.0
    normalised: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    chain: bool = False

    def build(self) -> tuple[Any, Any]:
        """The module and its data."""
        return self.module(), self.data()

    def __str__(self) -> str:
        return self.name
