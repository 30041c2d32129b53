"""The smaller Gram matrix of a layer system, and the identities among its equations."""

import numpy as np

from leakage_audit.layerwise.layer_system import LayerSystem


def gram_matrix(system: LayerSystem, weighting: float) -> np.ndarray:
    """The smaller of uᵀu and uuᵀ, with the gradient constraints multiplied by `weighting`.

    Uses `K = ⊕_groups I ⊗ K₀`: only products of the small block K₀ are ever formed.
    """
    w, pixels = system.weight_matrix(), system.n // system.layer.in_shape[0]
    tall = system.equations >= system.n
    size, z = min(system.n, system.equations), w.shape[0]
    gram = np.zeros((size, size))
    gram[: w.shape[tall], : w.shape[tall]] = (w.T @ w if tall else w @ w.T).toarray()
    if system.gradient is None:
        return gram
    columns = w.tocsc()
    for group, places in enumerate(system.layer.block_places):
        c_in = places.shape[1]
        block = weighting * system.gradient_block(group)
        square = block.T @ block if tall else block @ block.T
        for c in range(c_in):
            channel = slice((group * c_in + c) * pixels, (group * c_in + c + 1) * pixels)
            if tall:
                gram[channel, channel] += square
            else:
                own = z + places[:, c]
                gram[np.ix_(own, own)] = square
                gram[:z, own] = columns[:, channel] @ block.T
                gram[own, :z] = gram[:z, own].T
    return gram


def identities(system: LayerSystem, weighting: float) -> np.ndarray:
    """The left null vectors of u that every layer has, `(equations, c_out²/groups)`.

    For each pair (k, k') of output channels of a group, `Σ_p ∂L/∂z_k(p)·(W x)_k'(p) = Σ_t w_k'(t)·(K x)_k(t)`.
    """
    c_out, groups, places = system.layer.out_shape[0], system.layer.groups, system.layer.filter_places
    per_group = c_out // groups
    w = system.weight.double().cpu().numpy().reshape(-1)[places] / weighting
    dz = system.dz[0].double().cpu().numpy().reshape(c_out, -1)
    g, one, two = np.ogrid[:groups, :per_group, :per_group]
    column = (g * per_group + one) * per_group + two
    found = np.zeros((system.equations, c_out * per_group))
    above, below = found[: dz.size].reshape(*dz.shape, -1), np.zeros((*w.shape, found.shape[1]))
    k, other = (np.broadcast_to(g * per_group + i, column.shape).ravel() for i in (one, two))
    above[other, :, column.ravel()] = dz[k]
    below[k, :, column.ravel()] = -w[other]
    found[dz.size + places.ravel()] = below.reshape(places.size, -1)
    return found
