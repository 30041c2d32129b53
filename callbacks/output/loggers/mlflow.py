"""MLflow: pictures and text as artifacts of the run, a file a step."""

from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from typing_extensions import override

from leakage_audit.callbacks.output.loggers.display import Display, register


@register("MLFlowLogger")
class MLFlow(Display):
    """By the client that Lightning's MLFlowLogger holds."""

    @override
    def image(self, name: str, image: Tensor, step: int, caption: str) -> bool:
        picture = to_pil_image(image)
        self.logger.experiment.log_image(self.logger.run_id, picture, artifact_file=f"{name}/step_{step:06d}.png")
        return True

    @override
    def text(self, name: str, text: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, text, artifact_file=f"{name}/step_{step:06d}.md")
