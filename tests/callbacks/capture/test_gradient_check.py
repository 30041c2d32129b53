"""A step's gradients read, recomputed and compared, on doubles of the trainer and against sums written out by hand."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from leakage_audit.callbacks.capture.gradient_check import CheckOptions, GradientCheck, compare, compute_type
from leakage_audit.callbacks.capture.rng_isolation import RngState
from leakage_audit.callbacks.capture.step_gradients import loss_scale, recompute, step_gradients


class Trainer:
    """As much of a trainer as the check asks for."""

    def __init__(self, precision="32-true", scale=None):
        self.entered = 0
        scaler = {} if scale is None else {"scaler": SimpleNamespace(get_scale=lambda: torch.tensor(scale))}
        self.precision, self.precision_plugin = precision, SimpleNamespace(train_step_context=self._context, **scaler)

    def _context(self):
        self.entered += 1
        return nullcontext()


class Classifier:
    """The whole module is the network; its parameters have the module's names."""

    def name_in_module(self, network, name):
        return f"net.{name}"


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3))
        self.head = nn.Linear(2, 2)
        self.spare = nn.Parameter(torch.zeros(2))


def backward(module, scale=1.0):
    (scale * (module.net(torch.rand(2, 3, 2, 2)).square().mean() + module.head(torch.rand(1, 2)).sum())).backward()


class TestStepGradients:
    def test_those_of_this_optimiser_that_there_are_copied(self):
        module = Module()
        backward(module)
        optimizer = torch.optim.SGD([*module.net.parameters(), module.spare], 0.1)
        found = step_gradients(Trainer(scale=8.0), module, optimizer)
        own = dict(module.named_parameters())
        assert list(found) == ["net.1.weight", "net.1.bias", "net.4.weight", "net.4.bias"]
        assert all(torch.equal(g, own[name].grad) for name, g in found.items())
        own["net.1.bias"].grad.zero_()
        assert found["net.1.bias"].any()

    def test_an_optimiser_that_undoes_the_loss_scaling_itself(self):
        module = Module()
        backward(module)
        optimizer = torch.optim.SGD(module.net.parameters(), 0.1)
        optimizer._step_supports_amp_scaling = True
        found = step_gradients(Trainer(scale=8.0), module, optimizer)
        own = dict(module.named_parameters())
        assert all(torch.equal(8 * g, own[name].grad) for name, g in found.items())
        unscaled = step_gradients(Trainer(), module, optimizer)
        assert all(torch.equal(g, own[name].grad) for name, g in unscaled.items())

    def test_sparse_gradients_are_filled_in(self):
        module = L.LightningModule()
        module.words = nn.Embedding(5, 2, sparse=True)
        module.words(torch.tensor([1, 3])).sum().backward()
        (found,) = step_gradients(Trainer(), module, torch.optim.SGD(module.parameters(), 0.1)).values()
        assert found.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1], [0, 0]]

    def test_the_loss_scale(self):
        assert (loss_scale(Trainer()), loss_scale(Trainer(scale=1024.0))) == (1.0, 1024.0)


class TestRecompute:
    def window(self, count):
        generator = torch.Generator().manual_seed(1)
        batches = []
        for seed in range(count):
            torch.manual_seed(100 + seed)
            images = torch.rand(4, 3, 2, 2, generator=generator)
            batches.append((images, torch.randint(3, (4,), generator=generator), RngState.capture()))
        return batches

    @pytest.mark.parametrize("scale", [None, 64.0])
    def test_the_mean_over_the_window_with_the_masks_of_then(self, scale):
        module, window, trainer = Module(), self.window(3), Trainer(scale=scale)
        for seed, (images, targets, _) in enumerate(window):
            torch.manual_seed(100 + seed)
            (F.cross_entropy(module.net(images), targets) / len(window)).backward()
        names = ["net.1.weight", "net.4.bias", "head.weight"]
        found = recompute(trainer, Classifier(), module.net, F.cross_entropy, window, names)
        assert list(found) == names[:2]
        assert trainer.entered == 3
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, dict(module.named_parameters())[name].grad)

    def test_parameters_that_do_not_count_or_are_frozen(self):
        net = nn.ModuleDict({"used": nn.Linear(12, 3), "idle": nn.Linear(2, 2)})
        net["used"].bias.requires_grad_(False)
        net.forward = lambda x: net["used"](x.flatten(1))
        names = ["net.used.weight", "net.used.bias", "net.idle.weight"]
        found = recompute(Trainer(), Classifier(), net, F.cross_entropy, self.window(1), names)
        assert list(found) == ["net.used.weight", "net.idle.weight"]
        assert found["net.used.weight"].any()
        assert not found["net.idle.weight"].any()


ONE = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0, 4.0]])}  # of length five


class TestCompare:
    @pytest.mark.parametrize("size", [1.0, 2.0**-40])
    def test_a_scaled_gradient_of_any_size(self, size):
        one = {name: size * g for name, g in ONE.items()}
        found = compare({name: 2 * g for name, g in one.items()}, one, torch.float32)
        assert (found.scale, found.error, found.rest) == (2.0, 0.0, 0.5)
        assert (found.same, found.parallel, found.missing) == (False, True, ())
        assert "is 2 times" in str(found)

    def test_a_gradient_that_is_off(self):
        found = compare(ONE, {**ONE, "b": torch.tensor([[0.0, 3.0]])}, torch.float32)
        scale = (9 + 12) / (9 + 9)
        assert found.scale == pytest.approx(scale)
        assert found.error == pytest.approx(math.hypot(3 - 3 * scale, 4 - 3 * scale) / 5)
        assert found.rest == pytest.approx(1 / 5)
        assert not (found.same)
        assert not (found.parallel)
        assert "differs from the recomputed gradient by 20 %" in str(found)

    def test_nothing_to_compare_with(self):
        zero = {name: torch.zeros_like(g) for name, g in ONE.items()}
        assert compare(ONE, zero, torch.float32) == GradientCheck(1.0, 1.0, 1.0, 1e-4)
        found = compare(zero, zero, torch.float64)
        assert (found.error, found.rest, found.same) == (0.0, 0.0, True)

    def test_what_the_network_has_not_is_named(self):
        found = compare({**ONE, "c": torch.ones(9), "d": torch.ones(1)}, ONE, torch.float64)
        assert (found.missing, found.rest, found.scale) == (("c", "d"), 0.0, 1.0)
        assert not (found.same)
        assert not (found.parallel)
        assert str(found) == "includes parameters outside the audited network (c, d)"
        many = compare({**ONE, **{f"p{i}": torch.ones(1) for i in range(5)}}, ONE, torch.float64)
        assert str(many).endswith("(p0, p1, p2)")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_each_types_own_tolerance(self, dtype):
        options = CheckOptions(float64=0.1, float32=0.2, bfloat16=0.3, float16=0.4)
        expected = {torch.float64: 0.1, torch.float32: 0.2, torch.bfloat16: 0.3, torch.float16: 0.4}[dtype]
        assert compare(ONE, ONE, dtype, options).tolerance == expected
        assert CheckOptions().float64 < CheckOptions().float32 < CheckOptions().float16 < CheckOptions().bfloat16 < 0.04

    @pytest.mark.parametrize(
        ("scale", "error", "rest", "same", "parallel"),
        [
            (1.0, 0.1, 0.1, True, True),
            (1.0, 0.2, 0.2, False, False),
            (0.5, 0.1, 0.5, False, True),
            (-1.0, 0.0, 2.0, False, False),
            (0.0, 0.0, 1.0, False, False),
        ],
    )
    def test_the_verdict_at_its_edges(self, scale, error, rest, same, parallel):
        found = GradientCheck(scale, error, rest, tolerance=0.1)
        assert (found.same, found.parallel) == (same, parallel)
        assert str(found).startswith("equals") == same


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("32-true", torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("16-mixed", torch.float32, torch.float16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("transformer-engine", torch.float32, torch.bfloat16),
    ],
)
def test_the_coarsest_type_of_a_step(precision, dtype, expected):
    module = nn.Linear(2, 2).to(dtype)
    module.steps = nn.Parameter(torch.zeros(1, dtype=torch.long), requires_grad=False)
    module._parameters.move_to_end("steps", last=False) if hasattr(module._parameters, "move_to_end") else None
    assert compute_type(Trainer(precision), module) == expected


def test_an_epoch_without_a_backward_pass_has_no_gradients():
    """Stochastic weight averaging's last: what lies in `.grad` there is of an earlier step."""
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(_skip_backward=False), precision_plugin=None)
    assert set(step_gradients(trainer, layer, optimizer)) == {"weight", "bias"}
    trainer.fit_loop._skip_backward = True
    assert step_gradients(trainer, layer, optimizer) == {}
