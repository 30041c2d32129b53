"""The work itself, as a Lightning prediction over (network, image) pairs, so that Lightning can share it out."""

from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor

from leakage_audit.compare.experiment import LIMIT, Experiment
from leakage_audit.compare.progress import Bar
from leakage_audit.compare.sharing import SharedWork
from leakage_audit.compare.store import Cell, Row, Store
from leakage_audit.measures.limit import LimitOptions, reconstruction_limit
from leakage_audit.measures.security import security_metric
from leakage_audit.networks.chain import UnreadableNetwork
from leakage_audit.observation import Observation
from leakage_audit.runtime import Budget, OverBudget
from leakage_audit.scores.metrics import score


class Runner(SharedWork):
    """Attacks the pairs that its process is given, and keeps each finished cell.

    Args:
        experiment: What to do.
        store: Where finished cells are kept; those that are there already are not done again.
        show_progress: Whether the first process draws a progress bar.
    """

    def __init__(self, experiment: Experiment, store: Store, show_progress: bool = False) -> None:
        super().__init__(experiment.pairs)
        self.experiment, self.store, self.show_progress = experiment, store, show_progress
        self._bar = Bar([])

    def on_predict_start(self) -> None:
        """List what this process has to do; mend a table that was cut off."""
        cells = [(network, index, name) for network, index in self.mine for name in self.experiment.attacks]
        todo = [cell for cell in cells if not self.store.has(*cell)]
        if self.trainer.is_global_zero:
            self.store.write_csv(self.experiment.cells)
        show = self.show_progress and self.trainer.is_global_zero
        self._bar = Bar(todo, Console(stderr=True) if show else None)
        self._bar.start()

    def predict_step(self, batch: tuple[str, int], batch_idx: int) -> None:
        """Look at a pair once, and run every attack that is not done yet."""
        network, index = batch
        todo = [name for name in self.experiment.attacks if not self.store.has(network, index, name)]
        if not todo:
            return
        with torch.inference_mode(False), torch.enable_grad():
            seen, truth, label = self.experiment.observe(network, index, self.device)
        row = Row(network, index, label, LIMIT, self.experiment.seed, c=_c(seen))
        if self.experiment.limit:
            row = self._limit(seen, truth, row)
        for name in todo:
            with self._bar.cell(network, index, name) as report:
                budget = Budget(self.experiment.seconds, report)
                self.store.put(self._attack(name, seen, budget, truth, replace(row, attack=name)))

    def _limit(self, seen: Observation, truth: Tensor, row: Row) -> Row:
        """What the gradient determines, from the store if it is known; the row with it."""
        if not self.store.has(row.variant, row.index, LIMIT):
            options, budget = LimitOptions(uncertainty=False), Budget(self.experiment.seconds)
            try:
                found = reconstruction_limit(seen, truth.to(seen.device), row.label, options=options, budget=budget)
            except (ValueError, OverBudget) as refusal:  # nothing that could be linearized, or no time for it
                self.store.put(Cell(row, None, str(refusal)), listed=False)
            else:
                known = replace(row, limit=found.psnr[0], limit_solved=found.solved, seconds=round(found.seconds, 3))
                self.store.put(Cell(known, found.images[0], found.ended), listed=False)
        known = self.store.get(row.variant, row.index, LIMIT).row
        return replace(row, limit=known.limit, limit_solved=known.limit_solved)

    def _attack(self, name: str, seen: Observation, budget: Budget, truth: Tensor, row: Row) -> Cell:
        """Run an attack on what was seen, and only then look at the truth."""
        try:
            found = self.experiment.attack(name)(seen, budget)
            out_of_time = budget.stopped
        except (ValueError, OverBudget) as refusal:  # the attack does not work on this network, which is a result too
            return Cell(row, None, str(refusal))
        return Cell(
            row.scored(score(found.images, truth), found, out_of_time),
            found.images[0],
            found.ended,
        )

    def close(self) -> None:
        """Give the terminal back, however the prediction ended."""
        self._bar.stop()


def _c(seen: Observation) -> float | None:
    """c(M), where the network has one."""
    try:
        return security_metric(seen).c
    except (UnreadableNetwork, ValueError):
        return None
