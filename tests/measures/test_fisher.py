import pytest
import torch
import torch.nn.functional as F
from cases import NETWORKS

from leakage_audit.measures.fisher import fisher_information_leakage


@pytest.mark.parametrize("name", ["stride", "functions", "relu"])
def test_against_the_dense_jacobian(name):
    seen, x = NETWORKS[name].observe(grant_labels=True)
    network = seen.network

    def gradient(image):
        loss = F.cross_entropy(network(image), seen.labels)
        found = torch.autograd.grad(loss, list(seen.parameters.values()), create_graph=True)
        return torch.cat([g.flatten() for g in found])

    jacobian = torch.autograd.functional.jacobian(gradient, x).flatten(1)
    expected = float(torch.linalg.matrix_norm(jacobian, 2)) / 0.1
    assert fisher_information_leakage(seen, x, 0.1, steps=200) == pytest.approx(expected, rel=1e-3)


def test_noise_lowers_it():
    seen, x = NETWORKS["stride"].observe()
    quiet, loud = (fisher_information_leakage(seen, x, noise) for noise in (0.1, 0.2))
    assert loud == pytest.approx(quiet / 2)


def test_noise_must_be_positive():
    seen, x = NETWORKS["stride"].observe()
    with pytest.raises(ValueError, match="noise must be positive, got 0"):
        fisher_information_leakage(seen, x, 0)
