"""AdaQuant against plain rounding where that is the best, and against the freedom it has."""

from dataclasses import replace

import numpy as np
import pytest

from disttune.quantize.algorithms.adaquant import _learn, _Weights
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.relaxation import Relaxation
from disttune.quantize.algorithms.rounded import Rounded
from tests.quantize.algorithms.layers import inputs_of, int4, layer

PLAIN = {"scale": "minmax", "flip": False, "refine_scale": False}


def test_inputs_that_do_not_correlate_leave_plain_rounding() -> None:
    x = np.diag([3.0, 1.0, 0.2, 5.0, 1.0, 2.0])
    scheme = int4("adaquant", **PLAIN)
    problem = LayerProblem("fc", layer(6, 5, scheme).weight, scheme, inputs_of(x))
    codes = find_layer_algorithm("adaquant").solve(problem).codes
    assert np.array_equal(codes, Rounded.plainly(problem.weight, scheme).codes)


def test_learning_alone_loses_far_less_than_rounding() -> None:
    report = find_layer_algorithm("adaquant").solve(layer(64, 16, int4("adaquant", **PLAIN))).report
    assert report["loss"] < 0.6 * report["loss_rtn"]


def test_first_step_goes_against_the_slope_of_the_codes_error() -> None:
    problem = layer(12, 3, int4("adaquant"))
    assert problem.inputs is not None
    plain = Rounded.plainly(problem.weight, problem.scheme)
    block = Relaxation.of(plain, Objective.of_parts(problem))
    weights = _Weights.of(block)
    slope = problem.inputs.gram[0] @ (problem.weight - plain.values)[0]  # of minus the loss by the values
    moved = weights.wanted + 0.9 * np.sign(slope)  # Adam's first step is the sign of the slope
    expected = block.start + np.clip(np.rint(moved), weights.lowest, weights.highest)
    after = _learn(weights, 2, 0.9)
    losses = [
        Rounded(plain.grid, c.astype(np.int32)).losses(Objective.of_parts(problem))
        for c in (plain.codes, expected)
    ]
    best = np.where(losses[1] < losses[0], expected, plain.codes)
    assert np.array_equal(after.codes, best)


def test_no_gain_for_a_while_ends_it() -> None:
    x = np.eye(4)
    scheme = int4("adaquant", iterations=1000)
    problem = LayerProblem("fc", layer(4, 2, scheme).weight, scheme, inputs_of(x))
    assert find_layer_algorithm("adaquant").solve(problem).report["iterations"] == pytest.approx(201)


def with_mean_inputs(method_options: dict, dtype: str = "int4") -> tuple[np.ndarray, LayerProblem]:
    """Inputs far from zero, as those behind a Relu; 300 of them."""
    x = np.abs(np.random.default_rng(5).normal(size=(300, 24))) + np.linspace(0, 3, 24)
    scheme = int4("adaquant", symmetric=dtype == "int4", **method_options)
    problem = LayerProblem("fc", layer(24, 6, scheme).weight, scheme, inputs_of(x), takes_shift=True)
    return x, problem


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_a_learned_bias_leaves_no_mean_error_and_less_error_than_a_bias_behind(dtype: str) -> None:
    off = {}
    for bias in (True, False):
        x, problem = with_mean_inputs({"bias": bias}, dtype)
        solution = find_layer_algorithm("adaquant").solve(problem)
        plain = Rounded.plainly(problem.weight, problem.scheme)
        grid = replace(plain.grid, scale=solution.scale, zero_point=solution.zero_point)
        error = x @ (problem.weight[0] - grid.values(solution.codes)[0])
        shift = error.mean(axis=0) if solution.shift is None else solution.shift
        assert (error - shift).mean(axis=0) == pytest.approx(0, abs=1e-9)
        off[bias] = np.square(error - shift).sum() / len(x)
        if bias:
            assert solution.report["loss"] == pytest.approx(off[bias])
    assert off[True] < off[False]


def test_no_bias_is_learned_for_an_op_that_has_none_or_in_sequence() -> None:
    _, problem = with_mean_inputs({"bias": True})
    _, in_sequence = with_mean_inputs({"bias": True, "sequential": True})
    for each in (replace(problem, takes_shift=False), in_sequence):
        assert find_layer_algorithm("adaquant").solve(each).shift is None


def test_an_input_that_never_changes_is_left_to_the_bias() -> None:
    _, problem = with_mean_inputs({"bias": True, "scale": "minmax", "refine_scale": False})
    x = np.abs(np.random.default_rng(5).normal(size=(300, 24)))
    x[:, [3, 9]] = 7.0
    still = replace(problem, inputs=inputs_of(x))
    codes = find_layer_algorithm("adaquant").solve(still).codes
    assert np.array_equal(codes[0, [3, 9]], Rounded.plainly(problem.weight, problem.scheme).codes[0, [3, 9]])
