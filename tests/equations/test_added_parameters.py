import pytest
import torch
import torch.nn.functional as F
from cases import draw
from torch import nn

from leakage_audit.equations.added_parameters import AddedParameters
from leakage_audit.observation import observe


class Tokens(nn.Module):
    """Rows of the image as tokens; `add` puts a parameter to them."""

    def __init__(self, add, shape=(1, 6, 5)):
        super().__init__()
        self.embed, self.pos, self.add = nn.Linear(18, 5), nn.Parameter(draw(*shape, seed=3)), add
        self.twice, self.head = nn.Linear(5, 5), nn.Linear(30, 4)

    def forward(self, x):
        tokens = self.embed(x.transpose(1, 2).flatten(2))
        return self.head(F.gelu(self.twice(self.add(self, tokens).tanh())).flatten(1))


def in_place(net, tokens):
    tokens = tokens + 0
    tokens += net.pos
    return tokens


def in_parts(net, tokens):
    return torch.cat([tokens[:, :2] + net.pos[:, :2], net.pos[:, 2:] + tokens[:, 2:]], 1)


class Numbered(Tokens):
    """Positions by their numbers, as an embedding."""

    def __init__(self):
        super().__init__(lambda net, tokens: tokens + net.table(torch.tensor([3, 0, 1, 2, 7, 4])))
        self.table = nn.Embedding(8, 5)


def found(net):
    """Parameters that gave a derivative away, and ∂L/∂image that follows at guesses, beside autograd's at the image."""
    torch.manual_seed(0)
    net = net.double()
    image = 0.3 * draw(1, 3, 6, 6)
    seen = observe(net, image, 1)
    guesses = draw(3, 3, 6, 6, seed=5).requires_grad_()
    with AddedParameters(seen, net, 3, 1e-6) as added:
        scores = net(guesses)
    names = added.set_known(scores)
    slopes = torch.autograd.grad(scores.sum(), guesses)[0]
    truth = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(net(truth), torch.tensor([1])), truth)
    return names, slopes, expected


@pytest.mark.parametrize(
    "add",
    [
        lambda net, tokens: tokens + net.pos,
        lambda net, tokens: torch.add(net.pos.expand(len(tokens), -1, -1), tokens),
        lambda net, tokens: tokens + net.pos.view(6, 5),
        in_place,
        in_parts,
    ],
)
def test_an_added_parameter_gives_the_derivative_away(add):
    names, slopes, expected = found(Tokens(add))
    assert "pos" in names
    torch.testing.assert_close(slopes, expected.expand_as(slopes))


def test_rows_that_were_looked_up_count_too():
    names, slopes, expected = found(Numbered())
    assert "table.weight" in names
    torch.testing.assert_close(slopes, expected.expand_as(slopes))


@pytest.mark.parametrize(
    "add",
    [
        lambda net, tokens: tokens * net.pos,
        lambda net, tokens: tokens + 2 * net.pos,
        lambda net, tokens: torch.add(tokens, net.pos, alpha=2),
        lambda net, tokens: (tokens + net.pos) * net.pos,  # used twice: its gradient is a sum
        lambda net, tokens: tokens + net.pos[:, :1],  # added to several tokens
        lambda net, tokens: tokens,
    ],
)
def test_other_uses_give_nothing_away(add):
    assert found(Tokens(add))[0] == ["head.bias"]
