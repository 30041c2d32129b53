"""A network's recovery asks for time and memory before each factoring that nothing can interrupt."""

import math
from dataclasses import replace

import pytest
import torch
from cases import draw
from torch import nn

from leakage_audit import runtime
from leakage_audit.equations import convolution_certificate
from leakage_audit.equations.backward_recovery import recover_backwards
from leakage_audit.equations.convolution_certificate import certify
from leakage_audit.equations.convolution_separation import separate_convolution
from leakage_audit.equations.input_from_gradient import COPIES, Reader, solve_for_input
from leakage_audit.equations.network_recovery import NetworkRecoveryOptions, certified_convolutions, recover_network
from leakage_audit.equations.watched_recovery import watch_backwards
from leakage_audit.networks.dataflow import read_dataflow
from leakage_audit.networks.stateless import stateless
from leakage_audit.observation import observe
from leakage_audit.runtime import Budget, OutOfMemory, OutOfTime

EPS, EIGH = 1e-15, torch.linalg.eigh


def rectifiers():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 36, 5),
    ).double()  # fmt: skip
    return observe(network, 0.5 + 0.2 * draw(1, 3, 6, 6), 2)


def averaged(batch=2):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 80, 3, 2, 1), nn.ReLU(), nn.Conv2d(80, 90, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(90, 5),
    ).double()  # fmt: skip
    return observe(network, draw(batch, 3, 8, 8), torch.arange(batch))


def reader():
    module = nn.Linear(7, 4).double()
    delta = draw(1, 4, seed=2)
    return Reader(module, delta, delta.T @ draw(1, 7))


def never(*_, **__):
    raise AssertionError("begun")


@pytest.fixture
def slow(monkeypatch):
    """A machine on which an operation takes years, and on which nothing may be factored."""
    monkeypatch.setattr(runtime, "flops_per_second", lambda: 1e-9)
    for name in ("eigh", "svd", "lstsq", "cholesky", "qr"):
        monkeypatch.setattr(torch.linalg, name, never)


@pytest.mark.usefixtures("slow")
class TestTime:
    def test_a_layers_normal_equations_are_not_begun(self):
        budget = Budget(60.0)
        with pytest.raises(OutOfTime, match="normal equations of a layer's input"):
            solve_for_input([reader()], (7,), EPS, budget=budget)
        assert budget.stopped

    def test_a_walk_keeps_what_it_found_by_then(self):
        budget = Budget(60.0)
        found = recover_backwards(rectifiers(), EPS, budget=budget)
        assert [layer.name for layer in found] == ["5"]
        assert budget.stopped

    def test_a_watched_walk_is_broken_off(self):
        with pytest.raises(OutOfTime):
            watch_backwards(rectifiers(), EPS, budget=Budget(60.0))

    def test_a_convolutions_null_space_is_not_begun(self, monkeypatch):
        monkeypatch.setattr(torch.linalg, "eigh", EIGH)  # of the channels' Gram matrix, which is small
        with pytest.raises(OutOfTime):
            separate_convolution(averaged(), "2", EPS, budget=Budget(60.0))

    def test_nor_a_recovery_once_the_time_is_up(self):
        with pytest.raises(OutOfTime):
            recover_network(rectifiers(), EPS, EPS, None, Budget(1e-9), 1.0)


def test_without_a_limit_the_walk_goes_on():
    assert [layer.name for layer in recover_backwards(rectifiers(), EPS)] == ["5", "2", "0"]


def test_a_certificate_asks_at_each_trial(monkeypatch):
    class Clock(Budget):
        spent = 0.0

    seen, budget = averaged(), Clock(10.0)
    found = replace(separate_convolution(seen, "2", EPS), scaled=False)
    outside = convolution_certificate._Certificate._outside
    tried = []

    def slowly(certificate, inputs):
        budget.spent += 4.0
        tried.append(budget.spent)
        return outside(certificate, inputs)

    monkeypatch.setattr(convolution_certificate._Certificate, "_outside", slowly)
    with pytest.raises(OutOfTime):
        certify(seen, read_dataflow(stateless(seen.network)), found, budget=budget)
    assert tried == [4.0, 8.0]


def test_a_convolution_is_not_certified_out_of_time(monkeypatch):
    def out(*_):
        raise OutOfTime

    monkeypatch.setattr("leakage_audit.equations.network_recovery.certify", out)
    flow = read_dataflow(stateless(averaged().network))
    assert not list(certified_convolutions(averaged(), EPS, Budget(), 1.0, NetworkRecoveryOptions(), flow))


def test_what_does_not_fit_in_memory_is_not_solved():
    needed = 8 * (COPIES * 4 * 1 + 4)
    assert solve_for_input([reader()], (7,), EPS, budget=Budget(memory_gb=needed / 1e9))[0] is not None
    found, residual = solve_for_input([reader()], (7,), EPS, budget=Budget(memory_gb=0.9 * needed / 1e9))
    assert found is None
    assert math.isnan(residual)


def test_nor_are_networks_run_whose_values_do_not_fit():
    with pytest.raises(OutOfMemory, match="a network's values at guesses needs about"):
        recover_backwards(rectifiers(), EPS, budget=Budget(memory_gb=1e-6))
