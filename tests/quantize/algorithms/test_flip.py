"""Coordinate descent on codes against brute force and the error of real inputs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.flip import descend
from disttune.quantize.algorithms.grid import Grid, grid_of, has_signed_scales
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import find_layer_algorithm
from tests.quantize.algorithms.layers import correlated, inputs_of, int4, layer


def test_loss_is_the_squared_error_of_the_outputs() -> None:
    x = correlated(50, 12)
    weight = np.random.default_rng(1).normal(size=(1, 12, 3))
    problem = LayerProblem("fc", weight, int4("flip"), inputs_of(x))
    values = weight[0] + np.random.default_rng(2).normal(size=(12, 3)) / 10
    direct = np.square(x @ weight[0] - x @ values).sum(axis=0)
    assert Objective.of(problem, 0).losses(values) == pytest.approx(direct)


def test_loss_with_the_quantized_models_inputs_differs_by_a_constant() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 6))
    xq = x + rng.normal(size=x.shape) / 5
    weight = rng.normal(size=(1, 6, 2))
    objective = Objective.of(LayerProblem("fc", weight, int4("flip"), inputs_of(x, xq)), 0)
    tried = [weight[0] + rng.normal(size=(6, 2)) for _ in range(3)]
    direct = [np.square(x @ weight[0] - xq @ v).sum() for v in tried]
    found = [objective.losses(v).sum() for v in tried]
    assert np.diff(found) == pytest.approx(np.diff(direct), rel=0.05)  # the ridge's share


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans(), st.booleans())
def test_end_cannot_be_bettered_by_one_code_and_is_no_worse_than_rounding(
    seed: int, n_inputs: int, symmetric: bool, grouped: bool
) -> None:
    problem = layer(
        n_inputs, 2, int4("flip", symmetric=symmetric, group_size=4 if grouped else None), seed=seed
    )
    solution = find_layer_algorithm("flip").solve(problem)
    objective, grid = _of(problem)
    costs = objective.losses(grid.values(solution.codes)[0])
    for k, step in itertools.product(range(n_inputs), (-1, 1)):
        moved = solution.codes.copy()
        moved[0, k] = np.clip(moved[0, k] + step, *grid.codes)
        assert (objective.losses(grid.values(moved)[0]) >= costs * (1 - 1e-9) - 1e-12).all()
    assert solution.report["loss"] <= solution.report["loss_rtn"] * (1 + 1e-12)
    assert solution.report["loss"] == pytest.approx(costs.sum() / 256)


def test_mostly_finds_the_best_of_all_roundings() -> None:
    ratios = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(40, 8)) + 1  # correlated, but not all but singular
        weight = layer(8, 1, int4("flip"), seed=seed).weight
        problem = LayerProblem("fc", weight, int4("flip"), inputs_of(x))
        objective, grid = _of(problem)
        codes = find_layer_algorithm("flip").solve(problem).codes
        found = objective.losses(grid.values(codes)[0])[0]
        below = np.floor(problem.weight / grid.steps(8) + grid.zeros(8)).astype(np.int32)
        best = min(
            objective.losses(grid.values(np.clip(below + np.reshape(up, (1, 8, 1)), *grid.codes))[0])[0]
            for up in itertools.product((0, 1), repeat=8)
        )
        ratios.append(found / best)
    assert np.median(ratios) < 1.1


def test_correlated_inputs_lose_far_less_than_by_rounding() -> None:
    report = find_layer_algorithm("flip").solve(layer(96, 16, int4("flip", group_size=32))).report
    assert report["loss"] < 0.6 * report["loss_rtn"]


def test_columns_moved_together_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layer(70, 5, int4("flip", group_size=16))
    codes = find_layer_algorithm("flip").solve(problem).codes
    monkeypatch.setattr("disttune.quantize.algorithms.flip._COLUMNS", 2)
    assert np.array_equal(find_layer_algorithm("flip").solve(problem).codes, codes)


def test_inputs_that_are_always_zero_keep_their_rounding() -> None:
    x = correlated(64, 8)
    x[:, [2, 5]] = 0
    problem = LayerProblem("fc", layer(8, 3, int4("flip")).weight, int4("flip"), inputs_of(x))
    _, grid = _of(problem)
    codes = find_layer_algorithm("flip").solve(problem).codes
    assert np.array_equal(codes[0, [2, 5]], grid.round(problem.weight)[0, [2, 5]])


def test_parts_are_independent() -> None:
    both = layer(9, 4, int4("flip"), n_parts=2)
    assert both.inputs is not None
    codes = find_layer_algorithm("flip").solve(both).codes
    for i in range(2):
        inputs = inputs_of(correlated(256, 9, i))
        alone = LayerProblem("fc", both.weight[i : i + 1], both.scheme, inputs)
        assert np.array_equal(find_layer_algorithm("flip").solve(alone).codes[0], codes[i])


@pytest.mark.parametrize("n_columns", [1, 4])
def test_start_may_be_any_codes(n_columns: int) -> None:
    objective, grid = _of(layer(12, n_columns, int4("flip")))
    start = np.zeros((12, n_columns), np.int32)
    end = descend(objective, grid, start)
    assert not start.any()
    assert (
        objective.losses(grid.values(end[None])[0]) <= objective.losses(grid.values(start[None])[0])
    ).all()


def test_without_data_the_message_names_the_op() -> None:
    problem = LayerProblem("fc7", np.ones((1, 4, 2)), int4("flip"))
    with pytest.raises(TrialError, match=r"fc7.*calibration data"):
        find_layer_algorithm("flip").solve(problem)


def test_float8_has_no_codes_to_move() -> None:
    with pytest.raises(TrialError, match="float8"):
        find_layer_algorithm("flip").solve(layer(4, 2, Scheme("float8e4m3fn", True, method="flip")))


def _of(problem: LayerProblem) -> tuple[Objective, Grid]:
    signed = has_signed_scales(problem.scheme)
    return Objective.of(problem, 0), grid_of(problem.weight, problem.scheme, signed=signed)
