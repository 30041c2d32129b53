"""The closed form against automatic differentiation of the mixing's own equations."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jacrev

from leakage_audit.equations.softmax_mixing import SoftmaxMixing, softmax_offset


def smoothed(scores, labels):
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


@pytest.mark.parametrize("loss", [F.cross_entropy, smoothed], ids=["cross entropy", "smoothed labels"])
@pytest.mark.parametrize(("size", "classes"), [(1, 3), (4, 7)], ids=["one", "four"])
def test_it_is_what_autograd_says(loss, size, classes):
    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(0)
    scores, u, s, ones, mixing = (
        drawn(classes, size), drawn(classes, size), drawn(size).abs(), drawn(size), drawn(size, size),
    )  # fmt: skip
    labels = torch.randint(classes, (size,), generator=generator)

    def residual(p):
        delta = grad(loss)((scores @ p).T, labels)
        return torch.cat([((delta.T @ p.T - u) * s).flatten(), (ones @ p - 1) * s[0] / size])

    found = SoftmaxMixing(scores, u, s, ones, softmax_offset(loss, labels, classes))
    entries = mixing.flatten().numpy()
    assert torch.from_numpy(found.residual(entries)) == pytest.approx(residual(mixing), abs=1e-13)
    wanted = jacrev(residual)(mixing).flatten(1)
    assert (torch.from_numpy(found.jacobian(entries)) - wanted).abs().max() < 1e-13


def weighted(scores, labels):
    return F.cross_entropy(scores, labels, weight=torch.arange(1.0, 4.0, dtype=scores.dtype))


def margins(scores, labels):
    return F.multi_margin_loss(scores, labels)


def squares(scores, labels):
    return (scores - F.one_hot(labels, scores.shape[1])).square().mean()


@pytest.mark.parametrize("loss", [weighted, margins, squares], ids=["weighted", "margins", "squares"])
def test_other_losses_are_told(loss):
    assert softmax_offset(loss, torch.tensor([0, 2]), 3) is None
