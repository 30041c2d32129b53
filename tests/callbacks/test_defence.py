import json

import pytest
import torch
from fits import Grey, Net, fit, same, traces
from torch import nn

from leakage_audit.attacks.base import Found
from leakage_audit.callbacks import LeakageAudit
from leakage_audit.callbacks.defence import GradientDefence

GRADIENTS = {"a": torch.full((3, 4), 2.0), "b": torch.arange(5.0)}


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients.values()]).norm()


@pytest.mark.parametrize("clip", [0.5, 5.0])
def test_clipping_shortens_and_keeps_the_direction(clip):
    shared = GradientDefence(clip=clip).defend(GRADIENTS)
    assert norm(shared) == pytest.approx(clip)
    assert shared["b"] / shared["b"][1] == pytest.approx(GRADIENTS["b"])


def test_a_short_gradient_is_left_alone():
    shared = GradientDefence(clip=100.0).defend(GRADIENTS)
    assert all(torch.equal(shared[name], GRADIENTS[name]) for name in GRADIENTS)


@pytest.mark.parametrize(("clip", "sigma"), [(2.0, 0.6), (None, 0.3)])
def test_noise_has_the_promised_spread(clip, sigma):
    nothing = {"a": torch.zeros(200, 500)}
    noise = GradientDefence(clip=clip, noise=0.3).defend(nothing)["a"]
    assert noise.std() == pytest.approx(sigma, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.01)


def test_noise_differs_by_step_draw_and_seed_and_can_be_drawn_again():
    defence, other = GradientDefence(noise=1.0), GradientDefence(noise=1.0, seed=1)
    first = defence.defend(GRADIENTS)["a"]
    assert torch.equal(first, defence.defend(GRADIENTS)["a"])
    assert not torch.equal(first, defence.defend(GRADIENTS, draw=1)["a"])
    assert not torch.equal(first, other.defend(GRADIENTS)["a"])
    defence.steps = 1
    assert not torch.equal(first, defence.defend(GRADIENTS)["a"])


class Keeps(Grey):
    """Remembers the gradient it was shown."""

    name = "keeps"

    def __init__(self):
        super().__init__()
        self.seen = []

    def reconstruct(self, seen, budget):
        self.seen.append({name: g.clone() for name, g in seen.gradients.items()})
        return Found(torch.zeros(seen.batch_size, *seen.input_shape), True, "", 0.0)


class Notes(Net):
    """Notes the gradients that its optimiser gets."""

    def __init__(self):
        super().__init__()
        self.got = []

    def on_before_optimizer_step(self, optimizer):  # after all callbacks
        self.got.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})


def test_the_audit_sees_exactly_what_the_optimiser_gets(tmp_path):
    attack, module = Keeps(), Notes()
    audit = LeakageAudit(every_n_steps=2, attacks=[attack], gradient="step", on_error="raise", limit=0)
    fit(tmp_path, audit, GradientDefence(clip=0.1, noise=0.01), module=module, max_steps=5)
    assert len(attack.seen) == 6
    for seen, got in zip(attack.seen[1::2], module.got[::2], strict=True):
        assert all(torch.equal(seen[name], got[name]) for name in got)
    record = json.loads(next(tmp_path.rglob("audit.jsonl")).read_text().splitlines()[0])
    assert {"clip": 0.1, "noise": 0.01, "seed": 0}.items() <= record["defence"].items()
    assert [one["class"].rpartition(".")[2] for one in record["defence"]["mechanisms"]] == ["Clip", "GaussianNoise"]


def test_single_images_are_defended_likewise(tmp_path):
    attack = Keeps()
    fit(tmp_path, LeakageAudit(attacks=[attack], limit=0), GradientDefence(clip=0.1), max_steps=1)
    # By who knows the clipping, which he undoes, and by who does not.
    assert [float(norm(seen)) for seen in attack.seen[1::2]] == pytest.approx([0.1, 0.1])
    assert all(norm(seen) > 0.1 for seen in attack.seen[::2])


def test_the_defence_trains_alike_with_and_without_audit(tmp_path):
    found = [
        traces(*fit(tmp_path, *audit, GradientDefence(noise=0.1), max_steps=12))
        for audit in ([], [LeakageAudit(every_n_steps=3, attacks=[Grey()], limit=0)])
    ]
    assert same(*found)


def test_an_audit_that_comes_too_late_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must come after LeakageAudit"):
        fit(tmp_path, GradientDefence(), LeakageAudit(attacks=[Grey()]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0.0}, "clip must be positive"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"noise": float("inf")}, "noise must be at least 0 and finite"),
        ({"clip": None}, "must clip or add noise"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientDefence(**settings)


def test_parameters_without_gradient_are_passed_over(tmp_path):
    class Spare(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    attached, module = fit(tmp_path, GradientDefence(noise=0.1), module=Spare, max_steps=2)
    assert attached.global_step == 2
    assert module.spare.weight.grad is None
