"""The factor of an inverse Gram matrix, found once for all layers and methods that need it."""

import weakref
from collections import OrderedDict

import numpy as np

from disttune.quantize.algorithms.layer import Floats

_MORE_DAMPING = (1, 10, 100, 1000)
_SMALL = 64  # triangular matrices up to this size are inverted whole
_KEPT_BYTES = 2**28
_Key = tuple[int, int, int, float, bool]
_found: OrderedDict[_Key, tuple[weakref.ref[Floats], Floats | None]] = OrderedDict()


def inverse_factor(gram: Floats, percdamp: float, order: np.ndarray | None = None) -> Floats | None:
    """U with (gram + damping)^-1 = U^T U, upper triangular; None where there is none.

    Layers that read the same tensor, and methods that differ in other things alone, have one.

    Args:
        gram: shape (K, K); not written to as long as it is in use.
        percdamp: damping, in shares of the mean of the diagonal; ten times more, up to three times, where
            there is no factor. Rows of zeros count as if they were the mean.
        order: of rows and columns, by falling diagonal; None: as they are.
    """
    owner = gram if gram.base is None else gram.base
    place = int(gram.__array_interface__["data"][0])
    key = id(owner), place, len(gram), percdamp, order is not None
    known = _found.get(key)
    if known is None or known[0]() is not owner:
        ordered = gram if order is None else gram[np.ix_(order, order)]
        known = _found[key] = weakref.ref(owner), _new_factor(ordered, percdamp)
        _forget()
    _found.move_to_end(key)
    return known[1]


def _forget() -> None:
    """Factors of matrices that are gone, and those that have not been asked for lately."""
    for key in [key for key, (owner, _) in _found.items() if owner() is None]:
        del _found[key]
    n_bytes = sum(factor.nbytes for _, factor in _found.values() if factor is not None)
    while n_bytes > _KEPT_BYTES and len(_found) > 1:
        factor = _found.popitem(last=False)[1][1]
        n_bytes -= 0 if factor is None else factor.nbytes


def _new_factor(gram: Floats, percdamp: float) -> Floats | None:
    diagonal = np.diag(gram)
    alive = diagonal > 0
    mean = float(diagonal[alive].mean()) if alive.any() else 1.0
    for more in _MORE_DAMPING:
        damped = gram.copy()
        damped[np.diag_indices_from(damped)] += np.where(alive, percdamp * more * mean, mean)
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1]).astype(np.float64)
        except np.linalg.LinAlgError:
            continue
        factor = np.ascontiguousarray(_inverse_of_lower(lower)[::-1, ::-1])
        if np.isfinite(factor).all():
            return factor
    return None


def _inverse_of_lower(lower: Floats) -> Floats:
    """Inverse of a lower triangular matrix, by halves."""
    n = len(lower)
    if n <= _SMALL:
        return np.asarray(np.tril(np.linalg.inv(lower)))
    half = n // 2
    first, last = _inverse_of_lower(lower[:half, :half]), _inverse_of_lower(lower[half:, half:])
    inverse = np.zeros_like(lower)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = -last @ (lower[half:, :half] @ first)
    return inverse
