"""RTN, HQQ and k-quant: against onnxruntime's quantizer, and by what they promise."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi import _pybind_state as kernels

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import Grid
from disttune.quantize.algorithms.layer import Floats, LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from tests.quantize.algorithms.layers import int4, layer

KERNELS = {2: "quantize_matmul_2bits", 4: "quantize_matmul_4bits", 8: "quantize_matmul_8bits"}


def solve(weight: Floats, scheme: Scheme) -> LayerSolution:
    return find_layer_algorithm(scheme.method).solve(LayerProblem("fc", weight, scheme))


def values_of(solution: LayerSolution, scheme: Scheme) -> Floats:
    return Grid(solution.scale, solution.zero_point, (-128, 255), scheme.group_size).values(solution.codes)


def of_onnxruntime(
    weight: np.ndarray, bits: int, block: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (K, N), scales and zero points (n_blocks, N), unsigned."""
    n_rows, n_columns = weight.shape
    per_byte, n_blocks = 8 // bits, -(-n_rows // block)
    codes = np.zeros((n_columns, n_blocks, block // per_byte), np.uint8)
    zeros = np.zeros((n_columns, -(-n_blocks // per_byte)), np.uint8)
    scales = np.zeros((n_columns, n_blocks), np.float32)
    padded = np.pad(weight, ((0, n_blocks * block - n_rows), (0, 0)))
    kernel = getattr(kernels, KERNELS[bits])
    kernel(codes, padded, scales, zeros, block, n_columns, n_rows, symmetric)
    shifts = np.arange(0, 8, bits)
    unpacked, zero_points = (
        (packed[..., None] >> shifts & 2**bits - 1).reshape(n_columns, -1) for packed in (codes, zeros)
    )
    return unpacked[:, :n_rows].T, scales.T, zero_points[:, :n_blocks].T


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, 64, 128, 256]),
    st.booleans(),
    st.integers(1, 300),
)
def test_rtn_is_onnxruntimes_blockwise_quantizer_to_the_bit(
    seed: int, bits: int, block: int, symmetric: bool, n_inputs: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_inputs, 5)).astype(np.float32)
    weight[:, 0] = np.abs(weight[:, 0])
    weight[:, 1] = rng.integers(1, 9, n_inputs) / 8  # halves between codes
    codes, scales, zeros = of_onnxruntime(weight, bits, block, symmetric)
    scheme = Scheme(f"uint{bits}", symmetric, "per_group", block, "rtn")
    found = solve(weight[None].astype(np.float64), scheme)
    assert np.array_equal(found.codes[0], codes)
    assert found.scale[0].tobytes() == np.ascontiguousarray(scales).tobytes()
    assert np.array_equal(found.zero_point[0], np.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 5, 6, 7]), st.booleans())
def test_signed_and_unsigned_types_of_any_bits_mean_the_same(seed: int, bits: int, symmetric: bool) -> None:
    weight = np.random.default_rng(seed).normal(size=(1, 12, 3))
    values = []
    for dtype in (f"int{bits}", f"uint{bits}"):
        scheme = Scheme(dtype, symmetric, "per_channel", method="rtn")
        values.append(values_of(solve(weight, scheme), scheme))
    assert np.array_equal(*values)
    assert len(np.unique(values[0][0, :, 0])) <= 2**bits


def test_rtn_of_values_far_from_zero_keeps_them() -> None:
    weight = np.random.default_rng(0).uniform(1, 1.5, size=(1, 32, 4))
    scheme = int4("rtn", group_size=32)
    assert np.abs(values_of(solve(weight, scheme), scheme) - weight).max() <= 1.5 / 15 / 2 + 1e-6


def test_rtn_of_zeros_is_zeros() -> None:
    for symmetric in (True, False):
        scheme = int4("rtn", symmetric=symmetric, group_size=16)
        assert not values_of(solve(np.zeros((1, 20, 3)), scheme), scheme).any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 16])
def test_searched_range_never_raises_the_error_of_a_group(symmetric: bool, group_size: int | None) -> None:
    weight = np.random.default_rng(5).laplace(size=(2, 40, 6))
    schemes = [int4("rtn", symmetric=symmetric, group_size=group_size, mse=mse) for mse in (False, True)]
    errors = [np.square(values_of(solve(weight, scheme), scheme) - weight) for scheme in schemes]
    sums = [np.add.reduceat(e, range(0, 40, group_size or 40), axis=1) for e in errors]
    assert (sums[1] <= sums[0]).all()
    assert sums[1].sum() < sums[0].sum()


@pytest.mark.parametrize("float_zero_point", [False, True])
def test_hqq_never_has_more_of_its_error_than_rounding(float_zero_point: bool) -> None:
    weight = np.random.default_rng(5).standard_t(4, size=(1, 64, 32))
    scheme = int4("hqq", group_size=32, float_zero_point=float_zero_point)
    plain = Rounded.plainly(weight, scheme)
    found = np.abs(values_of(solve(weight, scheme), scheme) - weight) ** 0.7
    before = np.abs(plain.values - weight) ** 0.7
    sums = [np.add.reduceat(costs, (0, 32), axis=1) for costs in (found, before)]
    assert (sums[0] <= sums[1] + 1e-9).all()
    assert sums[0].sum() < (0.99 if float_zero_point else 1) * sums[1].sum()


def test_more_iterations_of_hqq_never_cost_more() -> None:
    weight = np.random.default_rng(7).standard_t(4, size=(1, 32, 16))
    costs = []
    for n in (0, 1, 3, 20):
        scheme = int4("hqq", iterations=n, float_zero_point=True)
        costs.append((np.abs(values_of(solve(weight, scheme), scheme) - weight) ** 0.7).sum(axis=1))
    assert all((later <= earlier + 1e-6).all() for earlier, later in pairwise(costs))


def test_hqq_of_symmetric_codes_is_refused() -> None:
    with pytest.raises(TrialError, match="fc: hqq moves zero points"):
        solve(np.ones((1, 4, 1)), int4("hqq", symmetric=True))


@pytest.mark.parametrize("symmetric", [True, False])
def test_k_quant_has_less_weighted_error_than_rounding(symmetric: bool) -> None:
    weight = np.random.default_rng(5).normal(size=(1, 64, 32))
    weight[..., 0] = np.abs(weight[..., 0]) + 1  # a minimum above zero
    weight[..., 1] = 0
    scheme = int4("k_quant", symmetric=symmetric, group_size=32)
    plain = Rounded.plainly(weight, scheme)
    mean_square = np.repeat(np.add.reduceat(np.square(weight), (0, 32), axis=1) / 32, 32, axis=1)
    importance = np.abs(weight) + np.sqrt(mean_square)
    sums = [
        np.add.reduceat(importance * np.square(values - weight), (0, 32), axis=1)
        for values in (values_of(solve(weight, scheme), scheme), plain.values)
    ]
    assert (sums[0] <= sums[1] * (1 + 1e-6) + 1e-12).all()
    assert sums[0].sum() < 0.95 * sums[1].sum()


def test_report_tells_the_loss_where_inputs_are_known() -> None:
    problem = layer(32, 4, int4("k_quant", group_size=16))
    report = find_layer_algorithm("k_quant").solve(problem).report
    assert report["loss"] > 0
    assert report["loss_rtn"] > 0
