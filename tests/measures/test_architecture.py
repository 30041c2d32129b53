import io
import json
import math

import lightning as L
import pytest
import torch
import torchvision
from cases import NETWORKS, modules
from rich.console import Console
from torch import nn

from leakage_audit.measures.architecture import inspect_network
from leakage_audit.measures.security import security_metric
from leakage_audit.models import VARIANTS, Variant, build

C = [0, -1470, -2266.5, -1995, 0, -2146, -2772, -18632 / 3]
JOINT = [0, -1470, -2043, -2484, 0, -2146, -1836, -189]  # docs/method.md, section 3.3: as found


def printed(inspection, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(inspection)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "c", "joint"), list(zip(VARIANTS, C, JOINT, strict=True)))
def test_variants(variant, c, joint):
    found = inspect_network(build(variant), (3, 32, 32), variant).as_dict()
    assert found["variant"] == variant
    assert found["c"] == pytest.approx(c, rel=1e-15)
    assert found["joint_deficiency"] == joint
    for layer in found["layers"]:
        assert {"name", "unknowns", "equations", "rank", "deficiency", "weight", "condition"} <= set(layer)
        assert 1e-3 < layer["condition"] < 1
        assert layer["rank"] - layer["unknowns"] == layer["deficiency"]
    assert json.loads(json.dumps(found)) == {**found, "suggestions": list(found["suggestions"])}


@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if case.invertible])
def test_shapes_promise_what_a_step_then_has(name):
    case = NETWORKS[name]
    promised = inspect_network(case.network(), case.shape)
    seen, _ = case.observe()
    found = security_metric(seen)
    assert promised.c == found.c
    assert [x.rank for x in promised.layers] == [x.rank for x in found.layers]
    assert [x.equations for x in promised.layers] == [x.equations for x in found.layers]


def test_verdicts():
    full = inspect_network(NETWORKS["one convolution"].network(), (3, 8, 8))
    assert full.verdict.startswith("Every layer determines its input: with batch size 1 the image leaks exactly.")
    short = inspect_network(build("cnn4_v1"), (3, 32, 32))
    assert "conv3 leaves 386 of 980 and conv2 leaves 3965 of 5400 unknowns open" in short.verdict
    assert "conv1 would determine the image" in short.verdict
    assert "All equations together determine 40% of the image" in short.verdict
    assert "Lemma 3.1" in inspect_network(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2)).verdict


def test_suggestions_are_true():
    found = inspect_network(build("cnn2_v1"), (3, 32, 32))
    assert found.suggestions[0] == "conv1 with stride 2 would leave 1596 of 3072 unknowns of the image open, not 0"
    changed = nn.Sequential(nn.Conv2d(3, 6, 3, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(1350, 10))
    assert inspect_network(changed, (3, 32, 32)).joint_deficiency == -1596


def test_an_activation_without_inverse():
    found = inspect_network(NETWORKS["relu"].network(), (3, 8, 8))
    assert found.c == 0
    assert found.joint_deficiency is None
    assert "relu" in found.problem
    assert "relu" in printed(found)


def test_resnet():
    found = inspect_network(torchvision.models.resnet18(num_classes=10), (3, 64, 64))
    assert found.c is None
    assert "bn1 (BatchNorm2d): batch normalisation couples" in found.problem
    assert len(found.layers) == 20
    assert all(layer.weight is None for layer in found.layers)
    assert found.layers[0].name == "conv1"
    assert found.layers[0].unknowns == 3 * 64 * 64
    assert "17 of 20 convolutions" in found.verdict
    assert json.loads(json.dumps(found.as_dict()))["c"] is None
    assert "bn1" in printed(found)


class Mine(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = modules()

    def forward(self, x):
        return self.body(x)


def test_a_lightning_module_of_ones_own_is_not_touched():
    model = Mine().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = inspect_network(model, (3, 8, 8))
    assert found.network == "Mine"
    assert [layer.name for layer in found.layers] == ["body.0", "body.2", "body.3"]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_table_fits_a_terminal():
    text = printed(inspect_network(Variant("cnn4_v1"), (3, 32, 32), "cnn4_v1"))
    assert "network.conv2" in text
    assert "-3965" in text
    assert "0.67" in text
    assert "c(M) = -2772, joint deficiency = -1836" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_wrong_shape():
    with pytest.raises(ValueError, match=r"Sequential does not accept images of shape \(1, 32, 32\)"):
        inspect_network(build("cnn2_v1"), (1, 32, 32))


def test_lazy_padding_modes_are_met_too():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 3))
    found = inspect_network(network, (3, 8, 8))
    assert "'reflect' is not supported" in found.problem
    assert math.prod((3, 8, 8)) == found.layers[0].unknowns
