"""SeqMSE against a loop over the inputs themselves, and scale refinement against a dense search."""

from dataclasses import replace

import numpy as np
import pytest

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.algorithms.scale_refinement import refined
from tests.quantize.algorithms.layers import correlated, inputs_of, int4, layer
from tests.quantize.algorithms.plain_rounding import searched_ranges


@pytest.mark.parametrize(
    ("dtype", "codes", "zero"), [("int4", (-8, 7), 0), ("uint8", (0, 255), 128), ("int8", (-127, 127), 0)]
)
def test_finds_what_a_loop_over_the_inputs_finds(dtype: str, codes: tuple[int, int], zero: int) -> None:
    x = correlated(80, 20)
    scheme = Scheme(dtype, True, "per_channel", method="seqmse", options=(("candidates", 25),))
    problem = LayerProblem("fc", layer(20, 6, scheme, seed=3).weight, scheme, inputs_of(x))
    solution = find_layer_algorithm("seqmse").solve(problem)
    values = (solution.codes - solution.zero_point) * solution.scale.astype(float)
    found = np.square(x @ (problem.weight - values)[0]).sum(axis=0)
    assert found == pytest.approx(searched_ranges(x, problem.weight[0], codes, zero, 25), rel=1e-4)


def test_one_scale_for_the_tensor_is_scored_by_all_columns() -> None:
    x = correlated(80, 20)
    scheme = Scheme("int8", True, "per_tensor", method="seqmse")
    problem = LayerProblem("fc", layer(20, 6, scheme, seed=3).weight, scheme, inputs_of(x))
    solution = find_layer_algorithm("seqmse").solve(problem)
    step = np.abs(problem.weight).max() / 127
    losses = []
    for ratio in np.linspace(1, 0.2, 40):
        scale = float(np.float32(step) * np.float32(ratio))
        values = np.clip(np.rint(problem.weight[0] / scale), -127, 127) * scale
        losses.append(np.square(x @ (problem.weight[0] - values)).sum() / 80)
    assert solution.scale.shape == (1, 1, 1)
    assert solution.report["loss"] == pytest.approx(min(losses), rel=1e-3)


def test_groups_that_know_of_each_other_lose_less_than_groups_on_their_own() -> None:
    problem = layer(64, 16, int4("seqmse", symmetric=True, group_size=16))
    assert problem.inputs is not None
    found = find_layer_algorithm("seqmse").solve(problem).report["loss"]
    gram = problem.inputs.gram
    blocks = np.zeros_like(gram)
    for i in range(0, 64, 16):
        blocks[:, i : i + 16, i : i + 16] = gram[:, i : i + 16, i : i + 16]
    alone = find_layer_algorithm("seqmse").solve(
        replace(problem, inputs=replace(problem.inputs, gram=blocks))
    )
    values = Rounded(_grid(problem, alone), alone.codes).losses(Objective.of_parts(problem)).sum() / 256
    assert found < values


def test_ends_of_an_asymmetric_range_may_move_apart() -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (1, 64, 1))
    weight[0, 0] = 8  # one value that never matters
    x = np.random.default_rng(1).normal(size=(200, 64))
    x[:, 0] *= 1e-3
    problem = LayerProblem("fc", weight, int4("seqmse"), inputs_of(x))
    solution = find_layer_algorithm("seqmse").solve(problem)
    low, high = ((end - solution.zero_point) * solution.scale for end in (0, 15))
    assert high[0, 0, 0] < 2.0
    assert low[0, 0, 0] == pytest.approx(-1, abs=0.4)
    assert solution.report["loss"] < 0.1 * solution.report["loss_rtn"]


@pytest.mark.parametrize("group_size", [None, 8])
def test_refined_scale_is_the_best_of_a_dense_search(group_size: int | None) -> None:
    problem = layer(24, 4, int4("flip", group_size=group_size), seed=5)
    objectives = Objective.of_parts(problem)
    plain = Rounded.plainly(problem.weight, problem.scheme)
    found = refined(plain, objectives)
    last = np.s_[:, -1:] if group_size else np.s_[:, :]  # groups before it met other errors
    for ratio in np.linspace(0.9, 1.1, 41):
        scale = found.grid.scale.copy()
        scale[last] *= np.float32(ratio)
        other = replace(found, grid=replace(found.grid, scale=scale))
        assert (found.losses(objectives) <= other.losses(objectives) * (1 + 1e-6)).all()
    assert found.losses(objectives).sum() < plain.losses(objectives).sum()
    assert np.array_equal(found.codes, plain.codes)


def test_refined_scale_of_a_tensor_is_one() -> None:
    problem = layer(24, 4, Scheme("int8", True, method="flip"), n_parts=3, seed=5)
    objectives = Objective.of_parts(problem)
    plain = Rounded.plainly(problem.weight, problem.scheme)
    found = refined(plain, objectives)
    assert found.grid.scale.shape == (1, 1, 1)
    assert found.losses(objectives).sum() < plain.losses(objectives).sum()


def _grid(problem: LayerProblem, solution):  # type: ignore[no-untyped-def]
    grid = Rounded.plainly(problem.weight, problem.scheme).grid
    return replace(grid, scale=solution.scale, zero_point=solution.zero_point)
