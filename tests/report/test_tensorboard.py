"""TensorBoard as a reader sees it, on the log directory of a real fit."""

import socket
import subprocess
import sys
import time

import lightning as L
import pytest
from browser import Browser, needs_chromium
from lightning.pytorch.loggers import TensorBoardLogger

from leakage_audit.callbacks import LeakageAudit, LeakageDashboard
from leakage_audit.data import Synthetic
from leakage_audit.models import Variant

pytestmark = [
    needs_chromium,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]

# Text and pictures of the whole page; TensorBoard keeps much of it in shadow trees.
EVERYWHERE = """
    const found = {text: '', pictures: []};
    const walk = node => {
        if (node.nodeType === 3) found.text += node.textContent + ' ';
        if (node.tagName === 'IMG' && node.naturalWidth) found.pictures.push([node.naturalWidth, node.naturalHeight]);
        if (node.shadowRoot) walk(node.shadowRoot);
        node.childNodes.forEach(walk);
    };
    walk(document.body);
    return found;
"""


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=6,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="fit"),
        callbacks=[LeakageAudit(every_n_steps=2, attacks=["rgap"], samples=1), LeakageDashboard()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Synthetic(train_images=40, test_images=10, batch_size=4, image_size=16)
    trainer.fit(Variant("cnn2_v1", image_size=16), data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.look(1400, 1300)
        yield browser, f"http://127.0.0.1:{port}/"
    server.terminate()
    server.wait(30)


def opened(tensorboard, page, *wanted):
    """What a page shows once everything wanted is there; fails with what was there instead."""
    browser, address = tensorboard
    found = {"text": "", "pictures": []}
    for _ in range(60):
        try:
            browser.get(f"{address}#{page}")
            time.sleep(1)
            found = browser.run(EVERYWHERE)
        except OSError:  # the server is not up yet
            time.sleep(1)
        if all(word in found["text"] for word in wanted):
            return found
    raise AssertionError([word for word in wanted if word not in found["text"]])


def test_scalars_are_grouped(tensorboard):
    opened(tensorboard, "scalars", "audit", "audit/psnr/rgap", "audit/chance", "train", "val")


def test_leakage_stands_over_loss_on_a_page_of_its_own(tensorboard):
    opened(tensorboard, "custom_scalars", "Leakage over loss", "PSNR above a guess", "SSIM", "Loss", "Accuracy")


def test_pictures_are_shown_enlarged(tensorboard):
    found = opened(tensorboard, "images", "audit/images")
    assert any(width >= 160 and height >= 320 for width, height in found["pictures"])


def test_the_summary_is_a_text(tensorboard):
    opened(tensorboard, "text", "audit/summary", "Exact", "meaning", "unknowns")


def test_settings_are_hyperparameters(tensorboard):
    opened(tensorboard, "hparams", "audit/attacks", "audit/psnr/rgap")
