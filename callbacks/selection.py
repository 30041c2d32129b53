"""Which gradients of a step are audited: of single images or the step's own, as they are once a defence has acted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from leakage_audit.callbacks.capture import distributed
from leakage_audit.callbacks.capture.captured_sample import CapturedSample
from leakage_audit.callbacks.capture.probe import Probe
from leakage_audit.callbacks.capture.step_gradients import MicroBatch
from leakage_audit.callbacks.capture.step_reader import StepReader
from leakage_audit.callbacks.defence import GradientDefence
from leakage_audit.callbacks.settings import Settings
from leakage_audit.defences import Shared

Capture = Callable[[], CapturedSample]  # made when it is called, so that one at a time is held


class Selection:
    """Captured samples of a step.

    Args:
        trainer: Of the fit.
        module: Being trained.
        settings: Of the audit.
        reader: Who understands the module.
        probe: Which single images are followed.
        defence: What is done to gradients before they are shared.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        settings: Settings,
        reader: StepReader,
        probe: Probe,
        defence: GradientDefence | None,
    ) -> None:
        self._trainer, self._module, self._settings = trainer, module, settings
        self._reader, self._probe, self._defence = reader, probe, defence

    def shared(self, optimizer: Optimizer) -> Shared | None:
        """What the step's own gradient is after the defence, where that is what is audited."""
        if self._defence is None or self._settings.gradient == "sample":
            return None
        return self._defence.share_step(self._trainer, self._module, optimizer)

    def of(self, shared: Shared | None, own: dict[str, Tensor], window: Sequence[MicroBatch]) -> list[Capture]:
        """What is audited of a step.

        Args:
            shared: What `shared` gave.
            own: The step's gradients by name before any defence, for an audit of them.
            window: The step's batches.
        """
        if self._settings.gradient == "sample":
            return self.samples(window, distributed.share(self._trainer, self._settings.samples))
        whole = self._reader.whole(self._trainer, self._module, own)
        whole = whole if shared is None else [self._through(shared, captured) for captured in whole]
        return [partial(_itself, captured) for captured in whole]

    def samples(self, window: Sequence[MicroBatch], count: int) -> list[Capture]:
        """So many single images' gradients, of every parameter: what another optimiser steps by is shared as well.

        Args:
            window: The step's batches.
            count: How many images.
        """
        batch = self._reader.pairs(self._trainer, self._module, list(window))[0]
        most = distributed.share(self._trainer, self._settings.samples)
        images, labels = self._probe.choose(batch, count, most)
        world, rank = self._trainer.world_size, self._trainer.global_rank
        # Draw 0 is the step's.
        pairs = enumerate(zip(images, labels, strict=True))
        return [partial(self._one, x, y, 1 + i * world + rank) for i, (x, y) in pairs]

    def _one(self, x: Tensor, label: Tensor, draw: int) -> CapturedSample:
        captured = self._reader.sample(self._trainer, self._module, x, label)
        if self._defence is None:
            return captured
        seen = captured.seen
        own = {self._reader.outer(seen.network, name): g for name, g in seen.gradients.items()}
        return self._through(self._defence.share(own, draw), captured)

    def _through(self, shared: Shared, captured: CapturedSample) -> CapturedSample:
        """What is seen of a sample whose gradient went through the defence, by who knows it and who does not."""
        seen = captured.seen
        shared = shared.renamed({self._reader.outer(seen.network, name): name for name in seen.gradients})
        known = None if shared.is_plain else shared.seen_by(seen, knows=True)
        return replace(captured, seen=shared.seen_by(seen, knows=False), known=known)


def _itself(captured: CapturedSample) -> CapturedSample:
    return captured
