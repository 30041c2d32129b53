"""The captured gradient against one computed from scratch with plain autograd, in every mode of the trainer."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from reading import Manual, Net, Reads, Tempered, data, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leakage_audit.callbacks.capture.input_range import InputRange


class TestModes:
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"gradient_clip_val": 0.01},
            {"accumulate_grad_batches": 2},
            {"accumulate_grad_batches": 4},  # six batches: the last window has two, and Lightning divides by four
            {"precision": "bf16-mixed"},
            {"precision": "64-true"},
            {"precision": "bf16-true"},
        ],
        ids=str,
    )
    def test_the_step_is_read_exactly(self, kwargs):
        reads = Reads()
        fit(Net(), reads, **kwargs)
        assert not reads.problems
        assert len(reads.verdicts) == {None: 6, 2: 3, 4: 2}[kwargs.get("accumulate_grad_batches")]
        for gradient_check in reads.verdicts:
            assert gradient_check.same, str(gradient_check)
        assert reads.samples_captured[0].seen.dtype == {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(
            kwargs.get("precision"), torch.float32
        )

    @pytest.mark.parametrize("optimizer", [0, 1])
    @pytest.mark.parametrize("divide", [1, 2])
    def test_manual_optimisation_with_two_optimisers(self, optimizer, divide):
        module, reads = Manual(), Reads(optimizer)
        module.divide = divide
        fit(module, reads)
        assert len(reads.verdicts) == 3
        # By the second optimiser's turn the first has moved its weights: the gradient is that of the step's start.
        assert all(v.same for v in reads.verdicts)

    def test_a_compiled_module(self):
        reads, module = Reads(), Net()
        module.net = torch.compile(module.net, backend="eager")
        fit(module, reads)
        assert all(v.same for v in reads.verdicts)

    def test_a_compiled_lightning_module(self):
        reads = Reads()
        fit(torch.compile(Net(), backend="eager"), reads)
        assert all(v.same for v in reads.verdicts)


@pytest.mark.parametrize(
    ("module", "kwargs", "same", "parallel", "words"),
    [
        (Net(scale=3.0), {}, False, True, "is 3 times the recomputed gradient"),
        (Net(smoothing=0.2), {"loss": "torch.nn.functional.cross_entropy"}, False, False, "label smoothing, mixup"),
        (Net(smoothing=0.2), {}, True, True, "equals"),
        (Net(smoothing=0.2), {"loss": nn.CrossEntropyLoss(label_smoothing=0.2)}, True, True, "equals"),
        (Net(), {"loss": "torch.nn.functional.cross_entropy"}, True, True, "equals"),
        (Net(), {"forward": "net"}, True, True, "equals"),
        (Tempered(), {"forward": "net"}, False, False, "includes parameters outside the audited network (temperature)"),
    ],
)
def test_what_is_assumed_wrongly_is_noticed(module, kwargs, same, parallel, words):
    reads = Reads(**kwargs)
    fit(module, reads)
    gradient_check = reads.verdicts[0]
    assert (gradient_check.same, gradient_check.parallel) == (same, parallel)
    assert words in str(gradient_check)


def test_the_sample_is_what_a_client_with_one_image_would_share():
    reads, module = Reads(), Net(lr=0.0)
    module.net[1].momentum = 0.0  # the sample's running statistics are those of the step's start
    fit(module, reads)
    module.eval().zero_grad()
    images, labels = list(data())[-1]
    F.cross_entropy(module(images[:1]), labels[:1]).backward()
    seen, truth = reads.sample.seen, reads.sample.truth
    assert torch.equal(truth, images[:1])
    for name, p in module.named_parameters():
        torch.testing.assert_close(seen.gradients[name], p.grad, rtol=1e-5, atol=1e-7)


def test_with_batch_size_one_step_and_sample_are_the_same():
    module, reads = Net(), Reads()
    del module.net[3], module.net[1]
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(torch.rand(3, 3, 8, 8, generator=generator), torch.arange(3)), batch_size=1)
    fit(module, reads, loader=loader)
    step, sample = reads.samples_captured[-1], reads.sample
    assert step.seen.batch_size == 1
    assert torch.equal(step.truth, sample.truth)
    for name, gradient in step.seen.gradients.items():
        torch.testing.assert_close(gradient, sample.seen.gradients[name], rtol=1e-6, atol=1e-8)


def test_the_steps_observation_reproduces_its_gradient():
    """Batch normalisation in train mode, dropout off: what the attacker would compute from the true images."""
    module, reads = Net(lr=0.0), Reads(inputs=InputRange(mean=-0.5, value_range=(-0.5, 0.5)))
    module.net[3].p = 0.0
    fit(module, reads)
    seen, truth = reads.samples_captured[-1].seen, reads.samples_captured[-1].truth
    x = seen.to_input(truth)
    found = torch.autograd.grad(
        seen.loss(seen.network(x), reads.samples_captured[-1].labels), list(seen.parameters.values())
    )
    for (name, gradient), again in zip(seen.gradients.items(), found, strict=True):
        torch.testing.assert_close(gradient, again, rtol=1e-5, atol=1e-7, msg=name)


class Poisons(Callback):
    def __init__(self, value):
        self.value = value

    def on_after_backward(self, trainer, pl_module):
        for p in pl_module.parameters():
            p.grad.fill_(self.value)


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN or infinite"), (0.0, "every gradient is zero")])
def test_gradients_that_hold_nothing_are_not_audited(value, words):
    reads = Reads()
    reads_and_poison = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        callbacks=[Poisons(value), reads],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    reads_and_poison.fit(Net(lr=0.0), data())
    assert len(reads.problems) == 2
    assert words in reads.problems[0]


def test_what_was_assumed_and_what_looks_wrong_is_said():
    reads = Reads()
    loader = DataLoader(TensorDataset(3 * torch.randn(8, 3, 8, 8), torch.arange(8) % 5), batch_size=4)
    fit(Net(), reads, loader=loader)
    assert reads.reader.assumed == [
        "scores by forward",
        "loss cross entropy",
        "input = (image - 0) / 1 (none found: inputs are images)",
    ]
    assert "give the normalisation's mean and std" in reads.reader.doubts[0]


def test_an_unpack_that_fails_is_a_skipped_audit():
    reads = Reads(unpack=lambda batch: batch["no such key"])
    fit(Net(), reads)
    assert not reads.verdicts
    assert "`unpack` failed" in reads.problems[0]


def test_batches_of_different_size_are_no_plain_average():
    reads = Reads()
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 5), batch_size=4)
    fit(Net(), reads, loader=loader, accumulate_grad_batches=2)
    assert reads.verdicts[0].same
    assert "differ in size" in reads.problems[0]


def test_the_modules_own_loss_is_found():
    module = Net(smoothing=0.1)
    module.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    reads = Reads()
    fit(module, reads)
    assert reads.reader.assumed[1] == "loss cross entropy (label_smoothing=0.1)"
    assert reads.verdicts[0].same


@pytest.mark.parametrize("name", ["criterion", "loss"])
@pytest.mark.parametrize(
    "other", [nn.NLLLoss(reduction="sum"), nn.CosineEmbeddingLoss(), lambda *_: 1 / 0, lambda scores, labels: scores]
)
def test_an_attribute_that_is_not_the_loss_is_passed_over(name, other):
    setattr(module := Net(), name, other)
    fit(module, reads := Reads())
    assert reads.reader.assumed[1] == "loss cross entropy"
    assert all(gradient_check.same for gradient_check in reads.verdicts)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_rounding_does_not_hide_label_smoothing(precision):
    """0.04 of smoothing is more than bfloat16's rounding: not plain cross entropy."""
    reads = Reads(loss="torch.nn.functional.cross_entropy")
    fit(Net(smoothing=0.04), reads, precision=precision)
    assert not any(check.same for check in reads.verdicts)
    heard = Reads()
    fit(Net(smoothing=0.04), heard, precision=precision)
    assert all(check.same for check in heard.verdicts)


class Decayed(Net):
    """With an L2 term that moves the gradient by less than bfloat16 may round it."""

    def training_step(self, batch, batch_idx):
        """Cross entropy, and half the squared norm of the weights times the gradient's share of it."""
        loss = super().training_step(batch, batch_idx)
        size = sum(p.square().sum() for p in self.parameters())
        slope = torch.autograd.grad(loss, tuple(self.parameters()), retain_graph=True)
        share = 0.004 * (sum(g.square().sum() for g in slope) / size).sqrt().detach()
        return loss + share * size / 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_rounding_does_not_hide_an_l2_term(precision):
    fit(Decayed(), reads := Reads(), precision=precision)
    assert not any(check.same or check.parallel for check in reads.verdicts)
    assert all("L2 term" in str(check) for check in reads.verdicts)
