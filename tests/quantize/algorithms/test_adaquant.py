"""AdaQuant against plain rounding where that is the best, and against the freedom it has."""

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
