"""The rank of a convolution's system from its shape alone.

One group of channels at a time (groups share neither inputs nor equations), let `c_in`, `c_out` be its channels, τ the
taps of a kernel, P the number of windows, `n_read` the number of inputs that some window reads. For generic filters w
and derivatives δ = ∂L/∂z,

    rank(u) ≤ min(n_read, q·P + r·(c_in·τ − q)),   q = min(c_out, c_in·τ),   r = min(c_out, P)             (*)

which for q = r = c_out is `|z| + |w| − c_out²`: (M11) of docs/method.md, section 3.1. A bias moves v, not u, and
changes nothing.

**Proof of (*).** Only read inputs have non-zero columns. Write `w = A w'` and `δ = B δ'` with q and r rows in w' and
δ': W has the row space of w' (q·P rows), K that of δ' (r·c_in·τ rows). For each pair (k, k') the two ways of writing
`Σ_p δ'_k(p)·(w'x)_k'(p) = Σ_t w'_k'(t)·(K'x)_k(t)` agree for all x: q·r independent identities among these rows.

**When it is an equality.** A minor that does not vanish at one (w, δ) vanishes almost nowhere, so one example of that
rank proves it for generic ones. By the classes of `axis` the layer is a convolution of stride one of `c` logical
channels (channel × row class × column class), class i with `m_h × m_w` taps; sizes are in windows of one class.

*Few windows*, P ≤ c_out: δ' can be the identity; then K reads every window, and the rank is n_read.

*Tall*: W alone is injective. Take logical channels x_1 … x_b with taps of equal number, and the b + 2 filters that
compute `y = T_v T_h x`, `(T_h x)_k(p) = x_k(p) + x_{k−1}(p + (0, m_w − 1))` (k = 1 … b + 1, x_0 = x_{b+1} = 0) and T_v
the same downwards from b + 1 to b + 2 channels; they use only the four corner taps. T_h x = 0 gives, from k = 1 up,
that x_k vanishes on the first `H_w − (k−1)(m_w−1)` of the `H_w + m_w − 1` columns, and from k = b + 1 down that it
vanishes beyond the first `(b−k+1)(m_w−1)`; so x = 0 if `b(m_w − 1) ≤ H_w`. Likewise T_v, with b + 1 in place of b. So
c_out ≥ Σ(b + 2) over blocks of channels is enough; an axis on which one tap reads everything needs no second one (b + 1
or b filters), and padding only fixes some pixels to zero.

*Wide*: no padding, `c_out ≤ c`. Let filter k have one tap, the first of its own class: W selects |z| different inputs.
On the others, K must have rank `c_out·(c_in·τ − c_out)`, all rows (k, t) but those of selected taps, which see
selected inputs only. Let δ_k be 1 at a window of its own in the interior, ε at one on the right edge, ε² at one on the
lower edge. For ε → 0 the row (k, t) of an unselected class tends to a unit vector at the pixel that tap t of the
interior window reads. In a selected class, whose unselected pixels are a frame to the right and below, it tends (up
to its scale) to one read by the right edge's window, or the lower edge's if t lies straight below the selected tap. If
the windows lie a kernel apart these pixels all differ. That needs `⌊H/m⌋` blocks for c_out interior windows and
`(c_out − 1)·m_h < H_h` for the edge, with the m_h of selected classes (or all of this with the axes exchanged).

All layers of the paper's networks are one of these (docs/method.md, section 3.2). Where none applies, a random instance
decides (`measures.structural`).
"""

from collections import Counter
from itertools import product
from math import inf, prod

from leakage_audit.networks.layer_types.axis import Axis, axis


def convolution_rank(
    in_shape: tuple[int, ...],
    weight: tuple[int, ...],
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    shared: bool,
) -> tuple[int, int, str]:
    """The bound (*), the number of inputs that are read, and what proves the bound to be the generic rank.

    Args:
        in_shape: `(channels, H, W)`.
        weight: The filters' shape.
        groups: Groups of channels.
        stride: Rows and columns.
        padding: Rows and columns.
        dilation: Rows and columns.
        shared: Whether the filters' gradient is seen; without it K has no rows.

    Returns:
        Rank, inputs read, and `few windows`, `tall`, `wide` or nothing.
    """
    rows, columns = (axis(in_shape[1 + i], weight[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1))
    read = in_shape[0] * rows.read * columns.read
    c_out, c_in, *kernel = weight
    c_out, taps, windows = c_out // groups, prod(kernel), rows.windows * columns.windows
    q, r = min(c_out, c_in * taps), min(c_out, windows) if shared else 0
    bound = min(read // groups, q * windows + r * (c_in * taps - q))
    how = ""
    if shared and windows <= c_out:
        how = "few windows"
    elif bound == read // groups and _tall(c_in, c_out, rows, columns):
        how = "tall"
    elif _wide(c_in, c_out, rows, columns):
        how = "wide"
    return groups * bound, read, how


def _tall(c_in: int, c_out: int, rows: Axis, columns: Axis) -> bool:
    filters = 0.0
    for (m_h, m_w), count in Counter(product(rows.needed, columns.needed)).items():
        c, high, wide = c_in * count, max(1, rows.windows // rows.step), max(1, columns.windows // columns.step)
        block = max(_block(m_h, high, m_w, wide), _block(m_w, wide, m_h, high))
        if block < 1:
            return False
        filters += c + ((m_h > 1) + (m_w > 1)) * -(-c // min(block, c))
    return filters <= c_out


def _block(m_first: int, size_first: int, m_second: int, size_second: int) -> float:
    """Largest b for T_first on b channels, then T_second on the b + 1 (or b) that it makes."""
    first = size_first // (m_first - 1) if m_first > 1 else inf
    second = size_second // (m_second - 1) - (m_first > 1) if m_second > 1 else inf
    return min(first, second)


def _wide(c_in: int, c_out: int, rows: Axis, columns: Axis) -> bool:
    high, wide = (-(-a.windows // a.step) for a in (rows, columns))
    classes = sorted(list(product(rows.taps, columns.taps)) * c_in, key=prod)
    if not (rows.inside and columns.inside) or c_out > len(classes):
        return False
    m_h, m_w = (max(m[i] for m in classes[:c_out]) for i in (0, 1))
    edge = (
        (m_w == 1 or (c_out - 1) * m_h < high) and (m_h == 1 or c_out <= wide),
        (m_h == 1 or (c_out - 1) * m_w < wide) and (m_w == 1 or c_out <= high),
    )
    interior = (high // max(rows.taps)) * (wide // max(columns.taps)) >= c_out
    return any(edge) and (interior or c_out == len(classes))
