"""The guess that every reconstruction is held against: what an attacker would say who saw no gradient."""

import logging

import torch
from lightning import Trainer
from torch import Tensor

from leakage_audit.callbacks.capture.own_copy import copy_data
from leakage_audit.callbacks.capture.rng_isolation import kept_generators

log = logging.getLogger("leakage_audit")


class BaselineImage:
    """The mean image of the trainer's data where its datamodule has `mean_image()`, else mid-grey.

    Attributes:
        about: Which of the two, in words; set by the first call.
    """

    def __init__(self) -> None:
        self.about = "mid-grey"
        self._image: Tensor | None = None
        self._asked = False

    def __call__(self, trainer: Trainer, shape: torch.Size) -> Tensor | None:
        """The mean image in [0, 1], or None for mid-grey.

        Args:
            trainer: Whose datamodule is asked, once.
            shape: Of the true images, `(C, H, W)`.
        """
        if not self._asked:
            self._asked = True
            self._image = _mean_image(trainer, shape)
            if self._image is not None:
                self.about = "the mean image of the data"
        return self._image


def _mean_image(trainer: Trainer, shape: torch.Size) -> Tensor | None:
    data = getattr(trainer, "datamodule", None)
    try:
        if not callable(getattr(data, "mean_image", None)):
            return None
        with kept_generators(data, trainer.train_dataloader):  # it may go through the data
            image = copy_data(data, trainer).mean_image()
    except Exception as error:  # somebody else's datamodule: a guess that cannot be had is no reason not to audit
        log.debug("mean_image failed: %s", error, exc_info=True)
        return None
    fits = isinstance(image, Tensor) and image.shape == shape and bool(((image >= 0) & (image <= 1)).all())
    return image if fits else None
