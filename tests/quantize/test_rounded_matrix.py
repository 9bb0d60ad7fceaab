"""Matrices rounded where they are needed. Oracle: the algorithm on the whole matrix, through a layer."""

import numpy as np
import pytest
from onnx import helper

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.layout import layout_of
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.builder import rounded_matrix
from disttune.quantize.summary import channel_axis, group_axis


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", ["uint4", "int4", "uint3", "int8", "uint2"])
@pytest.mark.parametrize("group_size", [None, 16, 32])
@pytest.mark.parametrize("at_once", [1, 200, 2**21])
def test_columns_at_a_time_give_the_codes_of_the_layer(turned, dtype, group_size, at_once, monkeypatch):
    monkeypatch.setattr(rounded_matrix, "_VALUES_AT_ONCE", at_once)
    shape = (7, 40) if turned else (40, 7)
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    granularity = "per_group" if group_size else "per_channel"
    scheme = Scheme(dtype, not dtype.startswith("u"), granularity, group_size, "rtn")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "fc", transB=int(turned))
    axis = group_axis(node, 2) if group_size else channel_axis(node, 2)
    assert axis is not None
    found = rounded_matrix.rounded_matrix(weight, scheme, axis)

    layout = layout_of(node, shape)
    solution = find_layer_algorithm("rtn").solve(LayerProblem("fc", layout.weight(weight), scheme))
    expected = layout.quantized(solution, scheme)
    for name in ("codes", "scale", "zero_point"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
    assert (found.axis, found.block_size, found.code_range) == (
        expected.axis,
        expected.block_size,
        expected.code_range,
    )


def test_a_weight_with_nan_is_told():
    weight = np.full((16, 4), np.nan, np.float32)
    with pytest.raises(TrialError, match="NaN"):
        rounded_matrix.rounded_matrix(weight, Scheme("uint4", False, "per_group", 16, "rtn"), 0)
