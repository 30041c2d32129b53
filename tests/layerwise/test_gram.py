import numpy as np
import pytest
from cases import CONVOLUTIONS, conv, system_of

from leakage_audit.layerwise.gram import gram_matrix, identities


def scaled(system, weighting):
    u = system.matrix()
    u[system.z.numel() :] *= weighting
    return u


@pytest.mark.parametrize("weighting", [1.0, 7.5])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_smaller_gram_matrix(name, weighting):
    system, _ = system_of(conv(name))
    u = scaled(system, weighting)
    expected = u.T @ u if system.equations >= system.n else u @ u.T
    np.testing.assert_allclose(gram_matrix(system, weighting), expected, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("weighting", [1.0, 7.5])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_identities_among_the_equations(name, weighting):
    system, _ = system_of(conv(name))
    found = identities(system, weighting)
    c_out = system.weight.shape[0]
    assert found.shape == (system.equations, c_out**2 // system.layer.groups)
    np.testing.assert_allclose(found.T @ scaled(system, weighting), 0, atol=1e-11)
    if np.prod(system.layer.out_shape[1:]) >= c_out:
        assert np.linalg.matrix_rank(found) == found.shape[1]
