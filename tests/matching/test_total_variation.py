import math

import torch

from leakage_audit.matching.total_variation import opponent_variation, total_variation


def image(channels=3, seed=0):
    return torch.rand(2, channels, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_total_variation_is_mean_difference_along_rows_plus_columns():
    x = image()
    rows = sum(
        abs(float(x[b, c, i, j + 1] - x[b, c, i, j]))
        for b in range(2)
        for c in range(3)
        for i in range(5)
        for j in range(5)
    )
    columns = sum(
        abs(float(x[b, c, i + 1, j] - x[b, c, i, j]))
        for b in range(2)
        for c in range(3)
        for i in range(4)
        for j in range(6)
    )
    assert math.isclose(float(total_variation(x)), rows / (2 * 3 * 5 * 5) + columns / (2 * 3 * 4 * 6), rel_tol=1e-12)


def test_opponent_variation_against_loops():
    x = image()
    red, green, blue = x.unbind(1)
    planes = torch.stack([red, green, blue, red - green, green - blue, blue - red], 1)
    total = 0.0
    for plane in planes.flatten(0, 1).tolist():
        at = lambda i, j, plane=plane: plane[i][j] if i < 5 and j < 6 else 0.0  # noqa: E731
        for i in range(5):
            for j in range(6):
                total += math.sqrt((at(i + 1, j) - at(i, j)) ** 2 + (at(i, j + 1) - at(i, j)) ** 2 + 1e-8)
    assert math.isclose(float(opponent_variation(x)), total / (2 * 6 * 5 * 6), rel_tol=1e-12)


def test_opponent_variation_of_grey_images_has_no_opponents():
    x = image(channels=1)
    assert torch.isfinite(opponent_variation(x))


def test_a_flat_image_has_a_finite_derivative():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    for variation in (total_variation, opponent_variation):
        (gradient,) = torch.autograd.grad(variation(x), x)
        assert torch.isfinite(gradient).all()
