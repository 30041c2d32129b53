"""Weights & Biases: pictures as media with their captions, text as a table."""

from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from typing_extensions import override

from leakage_audit.callbacks.output.loggers.display import Display, register


@register("WandbLogger")
class Wandb(Display):
    """By Lightning's WandbLogger; the package itself is not imported."""

    @override
    def image(self, name: str, image: Tensor, step: int, caption: str) -> bool:
        self.logger.log_image(key=name, images=[to_pil_image(image)], step=step, caption=[caption])
        return True

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.log_text(key=name, columns=["text"], data=[[text]], step=step)
