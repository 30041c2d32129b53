"""An image eliminated, against the joint Gaussian of image and other unknowns written out."""

import torch
from cases import draw

from leakage_audit.priors import Tikhonov
from leakage_audit.solvers.eliminated_image import EliminatedImage

K = 4


def test_equals_the_joint_gaussian():
    m, n, shape = 30, 12, (1, 3, 2, 2)
    jacobian, others = draw(m, n, seed=0), draw(m, K, seed=1)
    right, noise = draw(m, 1, seed=2)[:, 0], 0.1 + torch.rand(m, dtype=torch.float64)
    gaussian = Tikhonov().local_gaussian(0.5 + 0.1 * draw(n, 1, seed=3).reshape(shape))
    found = EliminatedImage(right, jacobian, others, noise, gaussian, (0.0, 1e-15))

    both, own = torch.cat([jacobian, others], 1), torch.eye(K, dtype=torch.float64) * 2
    precision = both.T @ (both / noise[:, None])
    precision[:n, :n] += gaussian.precision_matrix()
    shift = both.T @ (right / noise)
    shift[:n] += gaussian.precision_matrix() @ gaussian.mean
    precision[n:, n:] += own  # a Gaussian on the others, as their sites are
    covariance = torch.linalg.inv(precision)
    mean = covariance @ shift

    alone = torch.linalg.inv(found.precision + own)
    torch.testing.assert_close(alone @ found.shift, mean[n:])
    torch.testing.assert_close(alone, covariance[n:, n:])
    torch.testing.assert_close(found.image(mean[n:]), mean[:n])
    torch.testing.assert_close(found.std(alone), covariance.diagonal()[:n].sqrt())
