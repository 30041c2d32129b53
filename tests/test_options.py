import json
from dataclasses import dataclass

import torch
from torch import nn

from leakage_audit.options import recorded
from leakage_audit.priors import Denoiser, Gaussian, TotalVariation
from leakage_audit.priors.unet import UNet


@dataclass(frozen=True)
class Options:
    numbers: tuple[float, ...] = (1.0, 2.0)
    inner: object = None


def test_options_are_recorded_by_field():
    assert recorded(Options(inner=Options())) == {
        "numbers": [1.0, 2.0],
        "inner": {"numbers": [1.0, 2.0], "inner": None},
    }


def test_objects_by_class_and_arguments():
    found = recorded(TotalVariation(chroma=4.0))
    assert found["class"] == "leakage_audit.priors.total_variation.TotalVariation"
    assert (found["chroma"], found["edge"]) == (4.0, 0.02)


def test_what_is_learned_by_its_digest():
    torch.manual_seed(0)
    one, other = Denoiser(UNet(1, 8)), Denoiser(UNet(1, 8))
    nn.init.normal_(other.network.last.weight)
    first, again, second = recorded(one), recorded(one), recorded(other)
    assert json.loads(json.dumps(first)) == first == again
    assert first["network"]["sha256"] != second["network"]["sha256"]
    gaussian = recorded(Gaussian(torch.zeros(1, 2, 2), torch.eye(4), beside=TotalVariation()))
    assert gaussian["covariance"]["shape"] == [4, 4]
    assert gaussian["beside"]["chroma"] == 8.0
