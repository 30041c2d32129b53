import pytest
import torch
from torch import nn

from leakage_audit.attacks import DLG, RGAP, CosineTV, Joint
from leakage_audit.priors import Tikhonov, save
from leakage_audit.priors.gaussian import Gaussian
from leakage_audit.readings.threat_model import threat_model

PLAIN, NORMED = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def learned():
    return Gaussian(torch.zeros(1, 2, 2), torch.eye(4))


@pytest.mark.parametrize(
    ("attacks", "network", "letter"),
    [
        ([], PLAIN, "A"),
        ([RGAP(), DLG()], PLAIN, "A"),
        ([RGAP(), CosineTV()], PLAIN, "B"),
        ([Joint()], PLAIN, "B"),
        ([Joint(prior="none")], PLAIN, "A"),
        ([Joint(prior=Tikhonov())], PLAIN, "A"),
        ([Joint(prior=learned())], PLAIN, "D"),
        ([RGAP()], NORMED, "E"),
        ([RGAP()], nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "A"),
    ],
)
def test_the_one_that_uses_most_decides(attacks, network, letter):
    assert threat_model(attacks, network, False) == letter
    assert threat_model(attacks, network, True) == f"{letter}+labels"


def test_a_file_is_something_learned(tmp_path):
    save(learned(), tmp_path / "prior.pt")
    assert threat_model([Joint(prior=str(tmp_path / "prior.pt"))], PLAIN, False) == "D"
