"""Windows of tokens as feeds of a language model: what belongs to them, and the tokens that come next.

Rules:
1. The tokens are the array given for `input_ids`, `tokens` or the model's only given integer input of two
   dimensions (windows, positions).
2. Inputs that are not given: `attention_mask` all ones, `position_ids` 0, 1 ..., `token_type_ids` zeros, and
   caches (`past...`) empty: their first dimension, and one called like the tokens' first, is the number of
   windows, other symbolic ones are 0. Any other missing input stays an error.
3. The label of a token is the next one of its window; the last has none (-100).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from disttune.quantize.summary import InputSpec

Array = NDArray[Any]
TOKENS = ("input_ids", "tokens")
NO_LABEL = -100


def token_input(feed: Mapping[str, Any], specs: Sequence[InputSpec]) -> str | None:
    """Rule 1: name of the input that holds tokens; None where there is none."""
    integers = {spec.name for spec in specs if spec.dtype.startswith("int")}
    arrays = {name: np.asarray(value) for name, value in feed.items() if name in integers}
    found = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind == "i"]
    named = [name for name in TOKENS if name in found]
    return next(iter(named or (found if len(found) == 1 else [])), None)


def with_what_belongs_to_tokens(
    feed: Mapping[str, Any], specs: Sequence[InputSpec]
) -> tuple[dict[str, Any], list[str]]:
    """Rule 2.

    Returns:
        The feed with the inputs that could be made, and their names.
    """
    missing = [spec for spec in specs if spec.name not in feed]
    tokens = token_input(feed, specs) if missing else None
    if tokens is None:
        return dict(feed), []
    spec = next(spec for spec in specs if spec.name == tokens)
    shape = np.shape(feed[tokens])
    made = {other.name: _made(other, spec.shape[:1], shape) for other in missing}
    known = {name: array for name, array in made.items() if array is not None}
    return {**feed, **known}, list(known)


def next_tokens(tokens: Array) -> Array:
    """Rule 3; shape of the tokens, int64."""
    labels = np.full(tokens.shape, NO_LABEL, np.int64)
    labels[:, :-1] = tokens[:, 1:]
    return labels


def _made(spec: InputSpec, batch: tuple[object, ...], shape: tuple[int, ...]) -> Array | None:
    name = spec.name.rpartition(".")[2] if not spec.name.startswith("past") else "past"
    if spec.dtype.startswith("int") and name in ("attention_mask", "position_ids", "token_type_ids"):
        values = np.zeros(shape) if name == "token_type_ids" else np.ones(shape)
        return (np.cumsum(values, axis=1) - 1 if name == "position_ids" else values).astype(spec.dtype)
    if name == "past" and spec.dtype.startswith("float"):
        sizes = [
            n if isinstance(n, int) else shape[0] if i == 0 or (n is not None and (n,) == batch) else 0
            for i, n in enumerate(spec.shape)
        ]
        return np.zeros(sizes, spec.dtype)
    return None
