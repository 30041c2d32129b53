"""DP-SGD at three budgets: accuracy, ε, what gets back, and the reconstruction-robustness curve beside it.

`python benchmarks/dp_sgd.py DATA --classes automobile,bird`: an image folder; prints a line a budget and the point of
the curve where the attack comes nearest to what the mechanism allows.
"""

import argparse
from statistics import fmean

import torch
from opacus.accountants import RDPAccountant

from leakage_audit import attacks, observe
from leakage_audit.cli.commands import images_at
from leakage_audit.defences import Composition
from leakage_audit.measures.noisy_limit import noisy_limit
from leakage_audit.measures.reconstruction_robustness import mu_of_dp_sgd, robustness_curve
from leakage_audit.scores.metrics import score
from leakage_audit.sweep import Recipe


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--classes", default="automobile,bird")
    parser.add_argument("--epsilons", type=float, nargs="*", default=[50.0, 8.0, 1.0])
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--network", default="cnn3_v1")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = images_at(given.data, given.image_size, given.classes.split(","))
    recipe = Recipe(data, given.network, steps=given.steps)
    many = data.sample(1000)
    candidates = [many.mean(0), torch.full_like(many[0], 0.5)]
    # The best guess at each distance, whichever it is.
    guesses = [[-10 * float((image - guess).square().mean().log10()) for image in many] for guess in candidates]
    for epsilon in given.epsilons:
        trained = recipe.train("dp_sgd", epsilon)
        sigma = trained.noise_multiplier or 0.0
        accountant = RDPAccountant()
        rate = recipe.batch_size / len(recipe.training[0])
        for _ in range(given.steps):
            accountant.step(noise_multiplier=sigma, sample_rate=rate)
        composition = Composition(trained.mechanisms, recipe.seed)
        found, limits = [], []
        for n, index in enumerate(data.indices[:: len(data.indices) // given.images][: given.images]):
            image, label, _ = data.image_at(index)
            seen = observe(trained.network, image, label, mean=0.5)
            shared = composition.share(seen.gradients, 1, n)
            tries = [attacks.Joint()(shared.seen_by(seen, knows)) for knows in (True, False)]
            found.append(max(score(one.images, image).psnr[0] for one in tries))
            if n < 4:
                limits.append(noisy_limit(shared.seen_by(seen, True), image[None], torch.tensor([label])).psnr[0])
        curve = [
            max(points, key=lambda point: point.kappa)
            for points in zip(
                *(robustness_curve(g, found, mu_of_dp_sgd(sigma), sorted(found)) for g in guesses), strict=True
            )
        ]
        nearest = max(curve, key=lambda point: point.measured - point.bound)
        print(
            f"ε {trained.epsilon:.3f} (Opacus' own {accountant.get_epsilon(trained.delta):.3f})  σ {sigma:.3f}  "
            f"accuracy {trained.accuracy:.3f}  limit {fmean(limits):.1f} (highest {max(limits):.1f})  attack "
            f"{fmean(found):.1f} (highest {max(found):.1f})  guess {fmean(guesses[0]):.1f}  nearest to the curve at "
            f"{nearest.psnr:.1f} dB: measured {nearest.measured:.3f}, bound {nearest.bound:.3f}, guess "
            f"{nearest.kappa:.3f}  "
            f"all kept: {all(point.kept for point in curve)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
