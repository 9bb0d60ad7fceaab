"""Tensors that a job leaves in float (`quantization.exclude_tensors`), found in the prepared model."""

import difflib
import re
from collections.abc import Iterable, Sequence

from onnx import ModelProto

from disttune.config.errors import InputError

_N_NEAREST = 3


def excluded_tensors(
    keys: Iterable[str], prepared: ModelProto, original: ModelProto | None = None
) -> tuple[str, ...]:
    """Names of the tensors that the keys mean, in the order of the model.

    Args:
        keys: names, or regular expressions that match whole names.
        prepared: the model that candidates are made from.
        original: the user's, to tell tensors that preparing has done away with; None: not told.
    Raises:
        InputError: a key matches no tensor, or is no regular expression.
    """
    names = tensor_names(prepared)
    before = set() if original is None else set(tensor_names(original))
    chosen: set[str] = set()
    for key in keys:
        found = _matching(key, names)
        if not found:
            raise InputError(f"[quantization] exclude_tensors: {_unknown(key, names, key in before)}")
        chosen |= found
    return tuple(name for name in names if name in chosen)


def tensor_names(model: ModelProto) -> list[str]:
    """Inputs, constants and outputs of nodes of the main graph."""
    graph = model.graph
    made = (name for node in graph.node for name in node.output if name)
    listed = (*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer), *made)
    return list(dict.fromkeys(listed))


def _matching(key: str, names: Sequence[str]) -> set[str]:
    if key in names:
        return {key}
    try:
        pattern = re.compile(key)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f'[quantization] exclude_tensors: no tensor "{key}", and it is no regular expression: {error}'
        ) from None
    return {name for name in names if pattern.fullmatch(name)}


def _unknown(key: str, names: Sequence[str], was_there: bool) -> str:
    near = [f'"{name}"' for name in difflib.get_close_matches(key, names, n=_N_NEAREST, cutoff=0.4)]
    nearest = f" Nearest: {', '.join(near)}." if near else ""
    if was_there:
        return f'tensor "{key}" is gone from the prepared model: its node was fused with others.{nearest}'
    return f'no tensor "{key}", and as a regex it matches none of the {len(names)} names.{nearest}'
