"""A symmetric system by the factor of one that it was: conjugate gradients that the old factor preconditions.

A prior that is asked anew changes a system little each time, so that a handful of products does for a new factor.
"""

from collections.abc import Callable

from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def solve_by_old_factor(
    times: Operator, right: Tensor, old: Operator, rough: float, products: int, guess: Tensor | None = None
) -> Tensor | None:
    """x of `M x = right`.

    Args:
        times: M times a vector, symmetric and positive.
        right: `(m,)`.
        old: The inverse of a matrix near M, times a vector.
        rough: Relative error of x in the norm of M, which bounds the picture's in the prior's norm.
        products: Most products with M.
        guess: Where to begin, `(m,)`; what `old` makes of `right` by default.

    Returns:
        x, `(m,)`; None where the old matrix is too far from M.

    >>> import torch
    >>> matrix = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    >>> right, inverse = torch.ones(3, dtype=torch.float64), torch.linalg.inv(matrix + 0.1)
    >>> solve_by_old_factor(lambda v: matrix @ v, right, lambda v: inverse @ v, rough=1e-9, products=12)
    tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    first = old(right)
    goal, x = rough**2 * (right @ first), first if guess is None else guess
    rest = right - times(x)
    z = old(rest)
    direction, energy = z, rest @ z
    for _ in range(products):
        if energy <= goal:
            return x
        image = times(direction)
        step = energy / (direction @ image)
        x, rest = x + step * direction, rest - step * image
        z = old(rest)
        before, energy = energy, rest @ z
        direction = z + energy / before * direction
    return None
