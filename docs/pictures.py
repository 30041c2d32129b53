"""Draw the documentation's picture from a real fit on drawn images: python docs/pictures.py."""

import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leakage_audit.cli.command_line import main

HERE = Path(__file__).parent
# Time enough on any machine: an attack that ran out of it would be a hatched tile.
OPTIONS = (
    "--model.variant=cnn3_v1 --trainer.max_steps=1 --trainer.callbacks.samples=4 --trainer.callbacks.max_seconds=600"
)


def draw() -> None:
    """Run the quickstart on CNN3 V1 and keep the last picture that it logs."""
    with tempfile.TemporaryDirectory() as folder:
        config = HERE.parent / "configs" / "quickstart.yaml"
        main(["fit", "--config", str(config), *OPTIONS.split(), f"--trainer.default_root_dir={folder}"])
        events = next(Path(folder).rglob("events.*"))
        logged = EventAccumulator(str(events.parent), size_guidance={"images": 0})
        logged.Reload()
        (HERE / "audit.png").write_bytes(logged.Images("audit/images")[-1].encoded_image_string)


if __name__ == "__main__":
    draw()
