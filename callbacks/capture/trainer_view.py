"""The trainer as a copy of the module may see it: to be read, not to be used."""

from typing import Any

from leakage_audit.callbacks.capture.distributed import AuditSkipped
from leakage_audit.callbacks.capture.own_copy import copy_data
from leakage_audit.callbacks.capture.silent import Silent

# Read when the view is made: the state of that moment, which a worker process can be sent too.
_FROZEN = (
    *("current_epoch", "global_step", "max_epochs", "max_steps", "min_epochs", "min_steps"),
    *("training", "validating", "testing", "predicting", "sanity_checking", "is_last_batch"),
    *("world_size", "global_rank", "local_rank", "node_rank", "num_nodes", "num_devices", "is_global_zero"),
    *("precision", "num_training_batches", "accumulate_grad_batches", "log_every_n_steps", "default_root_dir"),
)
_ABSENT: dict[str, Any] = {
    "logger": Silent(),  # to the modules that write into its experiment
    "loggers": [],
    "callbacks": [],
    "checkpoint_callback": None,
    "early_stopping_callback": None,
}
_FORBIDDEN = ("optimizers", "strategy", "lr_scheduler_configs", "fit_loop", "fit", "save_checkpoint")


class TrainerView:
    """Reads go through to the trainer; it has no loggers, its optimisers are out of reach, and nothing can be set.

    Args:
        trainer: The training's own; None for a view that has come from another process.
        frozen: The plain numbers that it had when the view was made; None reads them off now.
    """

    def __init__(self, trainer: Any, frozen: dict[str, Any] | None = None) -> None:
        vars(self)["_trainer"] = trainer
        vars(self)["_values"] = _ABSENT | (_read(trainer) if frozen is None else frozen)

    def __getattr__(self, name: str) -> Any:
        if name in _FORBIDDEN:
            raise AuditSkipped(f"the module's code asks the trainer for `{name}`, which an audit must not touch")
        if name in self._values:
            return self._values[name]
        if name.startswith("__") or self._trainer is None:
            raise AttributeError(name)
        found = getattr(self._trainer, name)
        if name == "datamodule":  # one for this view's life, so that what is written there can be read
            found = self._values[name] = copy_data(found, self._trainer)
        return dict(found) if isinstance(found, dict) else found

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainerView":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainerView, (None, {name: value for name, value in self._values.items() if name != "datamodule"})


def _read(trainer: Any) -> dict[str, Any]:
    values = {}
    for name in _FROZEN:
        try:
            values[name] = getattr(trainer, name)
        except Exception:  # some are not there before the loops have begun
            continue
    return values
