"""What an evaluation function may return: one finite number."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from disttune.config.errors import TrialError


def finite_number(result: Any, label: str) -> float:
    """The metric as a float.

    Real numbers, numpy scalars and 0-dimensional arrays or tensors are taken. A truth value is not: it
    is a comparison where a metric was meant.

    Args:
        result: what the evaluator returned.
        label: the evaluator, for messages.
    Raises:
        TrialError: it is anything else, NaN or infinite; says what it is and what to do.
    """
    mend = _mend(result)
    if mend is None and np.shape(result) == ():
        value = float(result.item() if hasattr(result, "item") else result)
        if math.isfinite(value):
            return value
        raise TrialError(f"{label} returned {value}; expected a finite number: is there a division by zero?")
    raise TrialError(f"{label} returned {_shown(result)}; expected one finite number: {mend}")


def _mend(result: Any) -> str | None:
    if result is None:
        return 'is a "return" missing?'
    if isinstance(result, bool | np.bool_) or getattr(result, "dtype", None) == np.bool_:
        return "return the metric itself, not a comparison"
    if isinstance(result, str | bytes):
        return "return the number itself, not its text"
    if isinstance(result, Mapping):
        return "return one of its values, or give one evaluator for each"
    if isinstance(result, list | tuple | set):
        return "return one of its items, or give one evaluator for each"
    shape = getattr(result, "shape", None)
    if shape is not None and tuple(shape) != ():
        return "reduce it, e.g. float(array.mean())"
    if isinstance(result, numbers.Real) or _is_real_scalar(result):
        return None
    return "return a float"


def _is_real_scalar(result: Any) -> bool:
    """Whether it is a 0-dimensional array or tensor of real numbers, of numpy or another library."""
    if not hasattr(result, "item") or not hasattr(result, "shape"):
        return False
    item = result.item()
    return isinstance(item, int | float) and not isinstance(item, bool)


def _shown(result: Any) -> str:
    if result is None or isinstance(result, bool | np.bool_):
        return str(result)
    shape = getattr(result, "shape", None)
    if shape is not None:
        return f"type {type(result).__name__} of shape {tuple(shape)}"
    text = repr(result)
    return f"type {type(result).__name__} ({text if len(text) <= 60 else text[:60] + ' ...'})"
