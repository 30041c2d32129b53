import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit.layerwise.layer_system import LayerSystem
from leakage_audit.measures.degeneracy import remark
from leakage_audit.measures.security import security_metric
from leakage_audit.networks.chain import read_chain
from leakage_audit.observation import observe


def network(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), activation(), nn.Conv2d(6, 4, 3, 2), activation(), nn.Flatten(), nn.Linear(36, 5)
    ).double()


def rows(model):
    found = security_metric(observe(model, draw(3, 9, 9), 1))
    return {layer.name: layer for layer in found.layers}


def test_a_sound_network_has_no_remarks():
    for layer in rows(network()).values():
        assert layer.remark == ""
        assert not layer.degenerate
        assert layer.rank == layer.expected


def test_a_zeroed_filter():
    model = network()
    with torch.no_grad():
        model[2].weight[1] = 0
    layer = rows(model)["2"]
    assert layer.degenerate
    assert layer.remark == "zero filters: 1"


def test_a_dead_channel():
    model = network()
    with torch.no_grad():
        model[5].weight.reshape(5, 4, 9)[:, 2] = 0  # nothing above listens to channel 2
    found = rows(model)
    assert found["2"].degenerate
    assert found["2"].remark == "dead channels, which no gradient reaches: 2"


def test_filters_that_repeat():
    model = network()
    with torch.no_grad():
        model[2].weight[3] = -2 * model[2].weight[0]
    layer = rows(model)["2"]
    assert layer.degenerate
    assert layer.remark == "filters of rank 3 instead of 4"


def test_a_saturated_tanh():
    model = network()
    with torch.no_grad():
        model[2].bias[2] = 9.0
    layer = rows(model)["2"]
    assert layer.remark.endswith("25% of its tanh units are saturated")


def test_a_whole_layer_without_gradient():
    model = network()
    with torch.no_grad():
        model[2].weight.zero_()
        model[5].weight.zero_()
    found = rows(model)
    assert found["2"].remark == found["0"].remark == "no gradient reaches it"
    assert found["2"].degenerate


def test_single_precision_draws_the_line_higher():
    model = network()
    with torch.no_grad():
        model[5].weight.reshape(5, 4, 9)[:, 2] *= 4e-7
    assert "dead" not in rows(model)["2"].remark
    found = security_metric(observe(model.float(), draw(3, 9, 9), 1))
    assert "dead channels, which no gradient reaches: 2" in found.layers[1].remark


def test_pooling_has_equal_filters_by_nature():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 5)).double()
    assert rows(model)["2"].remark == ""
    assert not rows(model)["2"].degenerate


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_scaled_loss_degenerates_nothing(scale):
    found = security_metric(
        observe(network(), draw(3, 9, 9), 1, lambda s, y: scale * nn.functional.cross_entropy(s, y))
    )
    assert not any(layer.degenerate or layer.remark for layer in found.layers)
    assert isinstance(found.layers[0].rank, int)


def hundred_units(z):
    """The system of a layer with a hundred tanh units at `z`, whose largest derivative is 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(100, 3)).double()
    layer = read_chain(model, (2, 7, 7))[0]
    return LayerSystem(layer, draw(4, 5, 5), z.reshape(4, 5, 5), None)


@pytest.mark.parametrize(("slope", "units", "said"), [(9e-4, 1, False), (9e-4, 2, True), (1.1e-3, 2, False)])
def test_more_than_a_hundredth_below_a_thousandth_is_saturation(slope, units, said):
    z = torch.zeros(100, dtype=torch.float64)
    z[:units] = torch.tensor((1 - slope) ** 0.5, dtype=torch.float64).atanh()  # tanh' = 1 - tanh²
    found = remark(hundred_units(z), 1e-7)
    assert found == ("2% of its tanh units are saturated" if said else "")


@pytest.mark.parametrize(("zeroed", "shown"), [(8, "5, 6, 7"), (9, "5, 6, 7 and 1 more")])
def test_a_long_list_is_cut(zeroed, shown):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12 * 49, 5)).double()
    with torch.no_grad():
        model[0].weight[:zeroed] = 0
    assert rows(model)["0"].remark.startswith(f"zero filters: 0, 1, 2, 3, 4, {shown}")
    assert rows(model)["0"].remark.endswith(shown)
