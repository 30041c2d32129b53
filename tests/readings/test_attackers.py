"""Who knows a defence and who does not, set side by side."""

import torch

from leakage_audit import models, observe
from leakage_audit.attacks.base import Attack, Found
from leakage_audit.defences import Composition, GaussianNoise
from leakage_audit.readings.attackers import strongest
from leakage_audit.runtime import Budget

IMAGE = torch.full((1, 3, 8, 8), 0.3)


class Level(Attack):
    """Returns one grey level where the noise is known and another where it is not, which may mean that it failed."""

    name = "level"

    def __init__(self, known: float, unknown: float, begins: bool = True) -> None:
        self.known, self.unknown, self.begins = known, unknown, begins

    def reconstruct(self, seen, budget):
        level = self.known if seen.noise else self.unknown
        began = bool(seen.noise) or self.begins
        return Found(torch.full((1, *seen.input_shape), level), began, "", 0.0 if began else float("nan"))


def tried(attack):
    seen = observe(models.build("cnn2_v1", image_size=8), IMAGE, 3)
    shared = Composition([GaussianNoise(0.1)]).share(seen.gradients)
    return strongest(attack, shared.attackers(seen), IMAGE, Budget())


def test_the_stronger_counts_whoever_it_is():
    knows, does_not = tried(Level(0.4, 0.6)), tried(Level(0.6, 0.4))
    assert round(knows.scores.psnr[0], 3) == round(does_not.scores.psnr[0], 3) == 20.0
    assert [x.result.details["knows_defence"] for x in (knows, does_not)] == [True, False]


def test_the_image_of_an_attack_that_could_not_begin_does_not_count():
    found = tried(Level(0.6, 0.31, begins=False))
    assert found.no_result is None
    assert found.result.details["knows_defence"]
    assert found.result.details["psnr_by_attacker"][1] is None


def test_where_there_is_nothing_to_know_there_is_one_attacker():
    seen = observe(models.build("cnn2_v1", image_size=8), IMAGE, 3)
    assert len(Composition([]).share(seen.gradients).attackers(seen)) == 1
