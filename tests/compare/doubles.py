"""A cheap attack and a small experiment for tests of what is around them."""

from leakage_audit.attacks.base import Attack, Found
from leakage_audit.compare import Experiment
from leakage_audit.data import Synthetic


class Dim(Attack):
    """Guesses from the sizes of the gradients alone; told to, it breaks off at its n-th call."""

    name = "dim"
    calls = 0
    breaks_at = None

    def __init__(self, iterations: int = 1000, seed: int = 0) -> None:
        self.iterations, self.seed = iterations, seed

    def reconstruct(self, seen, budget):
        Dim.calls += 1
        if Dim.calls == Dim.breaks_at:
            raise RuntimeError("broken off")
        for _ in budget.steps(3, "guessing"):
            pass
        level = sum(g.abs().mean() for g in seen.gradients.values()) / 10
        grey = next(seen.network.parameters()).new_full((1, *seen.input_shape), float(level))
        return Found(grey, True, "guessed", 0.0)


def data(image_size=12, **settings):
    return Synthetic(train_images=30, test_images=10, image_size=image_size, **settings)


def experiment(source=None, **settings):
    given = {"networks": ["cnn2_v1", "cnn2_v2"], "attacks": ["dim", "cosine_tv"], "indices": (1, 3), "scale": 0.002}
    return Experiment(source or data(), **{**given, **settings})
