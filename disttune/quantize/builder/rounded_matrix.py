"""A matrix rounded to the nearest code right where it is needed: method "rtn" without a search.

It costs no more than a threshold method, so it is no work for other ranks: the codes are made some columns at
a time and go on the shelf of the node, and nothing of a large weight's size is in memory on the way.
"""

import numpy as np

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.weights import HELD_AS, QuantizedWeight, code_range_of

_VALUES_AT_ONCE = 2**21
METHOD = "rtn"


def is_rounded_here(scheme: Scheme, rank: int) -> bool:
    """Whether a weight of this rank has its codes from `rounded_matrix`.

    Args:
        rank: number of dimensions.
    """
    columns = scheme.granularity in ("per_channel", "per_group")
    return scheme.method == METHOD and rank == 2 and columns and scheme.option("mse") is not True


def rounded_matrix(weight: np.ndarray, scheme: Scheme, axis: int) -> QuantizedWeight:
    """The codes of method "rtn".

    Args:
        weight: of two dimensions, not empty.
        scheme: see `is_rounded_here`.
        axis: along which groups run, or of the channels.
    Raises:
        TrialError: the weight holds NaN or infinity, or the type has no integer codes.
    """
    grouped = scheme.granularity == "per_group"
    along = axis if grouped else 1 - axis  # that of K
    turned = along == 1
    matrix = weight.T if turned else weight
    n_rows, n_columns = matrix.shape
    held_as = HELD_AS.get(scheme.dtype, np.uint8)
    codes = np.empty(weight.shape, held_as)
    found = []
    step = max(1, _VALUES_AT_ONCE // n_rows)
    for start in range(0, n_columns, step):
        columns = slice(start, start + step)
        values = np.ascontiguousarray(matrix[:, columns], np.float64)[None]
        solution = find_layer_algorithm(METHOD).solve(LayerProblem("", values, scheme))
        (codes.T if turned else codes)[:, columns] = solution.codes[0]
        found.append((solution.scale[0], solution.zero_point[0]))
    scale, zero_point = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    if grouped:
        scale, zero_point = (v.T if turned else v for v in (scale, zero_point))
    else:
        scale, zero_point = scale[0], zero_point[0]
    return QuantizedWeight(
        codes,
        np.ascontiguousarray(scale, np.float32),
        np.ascontiguousarray(zero_point, held_as),
        scheme.dtype,
        axis,
        scheme.group_size if grouped else None,
        code_range_of(scheme),
    )
