"""GPTQ against the exact formula of Optimal Brain Quantization, real inputs and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import Grid, grid_of, has_signed_scales
from disttune.quantize.algorithms.layer import Floats, LayerInputs, LayerProblem, LayerSolution
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from tests.quantize.algorithms.layers import correlated, inputs_of, int4, layer


def solve(problem: LayerProblem) -> LayerSolution:
    return find_layer_algorithm(problem.scheme.method).solve(problem)


def values_of(solution: LayerSolution, scheme: Scheme) -> Floats:
    return Grid(solution.scale, solution.zero_point, (0, 15), scheme.group_size).values(solution.codes)


def obq(weight: Floats, gram: Floats, grid: Grid, order: list[int]) -> Floats:
    """Rows in an order; after each the rest is the exact minimum with what is rounded held fixed."""
    left, n_rows = weight.copy(), len(weight)
    made = np.zeros_like(weight)
    for i, k in enumerate(order):
        row = grid if grid.scale.shape[1] == 1 else _row_of(grid, k, n_rows)
        made[k] = row.values(row.round(left[None, [k]]))[0, 0]
        rest, done = order[i + 1 :], order[: i + 1]
        if rest:
            error = (weight - made)[done]
            left[rest] = weight[rest] + np.linalg.solve(
                gram[np.ix_(rest, rest)], gram[np.ix_(rest, done)] @ error
            )
    return made


def _row_of(grid: Grid, k: int, n_rows: int) -> Grid:
    of = [grid.for_rows(values, n_rows)[:, [k]] for values in (grid.scale, grid.zero_point)]
    return Grid(of[0], of[1], grid.codes)


def damped(gram: Floats, share: float = 0.01) -> Floats:
    return np.asarray(gram + share * np.diag(gram).mean() * np.eye(len(gram)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([None, 4]), st.booleans())
def test_codes_are_those_of_the_exact_minimum_after_each_row(
    seed: int, n_inputs: int, group_size: int | None, act_order: bool
) -> None:
    scheme = int4("gptq", group_size=group_size, act_order=True) if act_order else int4("gptq")
    problem = layer(n_inputs, 3, scheme, seed=seed)
    gram = Objective.of(problem, 0).gram
    order = np.argsort(-np.diag(gram), kind="stable") if act_order else np.arange(n_inputs)
    expected = obq(problem.weight[0], damped(gram), grid_of(problem.weight, scheme), order.tolist())
    plain = Rounded.plainly(problem.weight, scheme)
    objective = Objective.of(problem, 0)
    kept = objective.losses(expected) < objective.losses(plain.values[0])
    expected = np.where(kept, expected, plain.values[0])
    assert values_of(solve(problem), scheme)[0] == pytest.approx(expected, rel=1e-6)


def test_groups_take_their_range_from_rows_that_made_up_for_all_errors_before() -> None:
    scheme = int4("gptq", group_size=4)
    problem = layer(12, 5, scheme, seed=3)
    objective = Objective.of(problem, 0)
    left, made = problem.weight[0].copy(), np.zeros((12, 5))
    gram = damped(objective.gram)
    for k in range(12):
        if k % 4 == 0:
            grid = grid_of(left[None, k : k + 4], int4("gptq"))
        made[k] = grid.values(grid.round(left[None, [k]]))[0, 0]
        error = (problem.weight[0] - made)[: k + 1]
        left[k + 1 :] = problem.weight[0][k + 1 :]
        if k < 11:
            left[k + 1 :] += np.linalg.solve(gram[k + 1 :, k + 1 :], gram[k + 1 :, : k + 1] @ error)
    better = objective.losses(made) < objective.losses(Rounded.plainly(problem.weight, scheme).values[0])
    assert better.sum() >= 3
    assert values_of(solve(problem), scheme)[0][:, better] == pytest.approx(made[:, better], rel=1e-6)


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_correlated_inputs_lose_less_than_eight_tenths_of_rounding(
    group_size: int | None, symmetric: bool
) -> None:
    for seed in range(3):
        report = solve(
            layer(64, 32, int4("gptq", group_size=group_size, symmetric=symmetric), seed=seed)
        ).report
        assert report["loss"] < 0.8 * report["loss_rtn"]


def test_flip_after_it_is_better_still() -> None:
    losses = [
        solve(layer(64, 32, int4("gptq", group_size=32, **options))).report["loss"]
        for options in ({}, {"flip": True})
    ]
    assert losses[1] < 0.95 * losses[0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.sampled_from([None, 8]),
    st.sampled_from([{}, {"act_order": True}, {"mse": True}, {"act_order": True, "flip": True, "mse": True}]),
)
def test_no_column_is_worse_than_by_rounding(
    seed: int, n_inputs: int, group_size: int | None, options: dict[str, bool]
) -> None:
    scheme = int4("gptq", symmetric=True, group_size=group_size, **options)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, n_inputs)) * (rng.random(n_inputs) > 0.3)  # few rows, and inputs always zero
    problem = LayerProblem("fc", rng.normal(size=(1, n_inputs, 4)), scheme, inputs_of(x))
    objective = Objective.of(problem, 0)
    plain = Rounded.plainly(problem.weight, scheme, signed=has_signed_scales(scheme))
    found = values_of(solve(problem), scheme)[0]
    assert (objective.losses(found) <= objective.losses(plain.values[0]) * (1 + 1e-6) + 1e-12).all()


def test_reported_loss_is_the_error_of_the_outputs_for_real_inputs() -> None:
    x = correlated(100, 24)
    scheme = int4("gptq", group_size=8)
    problem = LayerProblem("fc", layer(24, 6, scheme).weight, scheme, inputs_of(x))
    solution = solve(problem)
    error = x @ (problem.weight[0] - values_of(solution, scheme)[0])
    assert solution.report["loss"] == pytest.approx(np.square(error).sum() / 100, rel=1e-6)


def test_flip_after_it_comes_near_the_best_of_all_codes() -> None:
    for seed in range(4):
        scheme = Scheme("uint4", False, "per_channel", method="gptq", options=(("flip", True),))
        x = np.random.default_rng(seed).normal(size=(40, 4)) + 1
        problem = LayerProblem("fc", layer(4, 1, scheme, seed=seed).weight, scheme, inputs_of(x))
        grid, objective = grid_of(problem.weight, scheme), Objective.of(problem, 0)
        all_codes = np.array(list(itertools.product(range(16), repeat=4)), np.int32).T
        best = objective_of_columns(objective, grid, all_codes).min()
        found = objective.losses(values_of(solve(problem), scheme)[0])[0]
        assert best * (1 - 1e-9) <= found <= 1.3 * best


def objective_of_columns(objective: Objective, grid: Grid, codes: np.ndarray) -> Floats:
    error = objective.weight - grid.values(codes[None])[0]
    return np.asarray(np.einsum("kn,kn->n", error, objective.gram @ error))


def test_blocks_change_nothing_but_speed() -> None:
    codes = [
        solve(layer(50, 6, int4("gptq", group_size=group_size, block_size=block))).codes
        for group_size in (None, 16)
        for block in (1, 16, 48, 128)
    ]
    assert all(np.array_equal(found, codes[0]) for found in codes[1:4])
    assert all(np.array_equal(found, codes[4]) for found in codes[5:])


def test_columns_are_independent() -> None:
    problem = layer(32, 6, int4("gptq", group_size=16, flip=True))
    whole = solve(problem).codes
    halves = [
        solve(LayerProblem("fc", problem.weight[..., part], problem.scheme, problem.inputs)).codes
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert np.array_equal(np.concatenate(halves, axis=2), whole)


def test_inputs_that_are_always_zero_keep_their_rounding() -> None:
    x = correlated(64, 16)
    x[:, [2, 9]] = 0
    problem = LayerProblem("fc", layer(16, 3, int4("gptq")).weight, int4("gptq"), inputs_of(x))
    plain = Rounded.plainly(problem.weight, problem.scheme)
    assert np.array_equal(solve(problem).codes[0, [2, 9]], plain.codes[0, [2, 9]])


def test_without_a_factor_plain_rounding_stays() -> None:
    weight = layer(6, 2, int4("gptq")).weight
    nothing = np.zeros((1, 6))
    gram = np.full((1, 6, 6), 2.0) - np.eye(6)  # no Gram matrix: it has negative eigenvalues
    problem = LayerProblem("fc", weight, int4("gptq", percdamp=0.0), LayerInputs(9, gram, nothing, nothing))
    assert np.array_equal(solve(problem).codes, Rounded.plainly(weight, problem.scheme).codes)


def test_the_quantized_models_inputs_are_made_up_for() -> None:
    rng = np.random.default_rng(0)
    x = correlated(300, 24)
    xq = x @ (np.eye(24) + rng.normal(size=(24, 24)) / 60)  # what quantized layers before it make of x
    scheme = int4("gptq", group_size=8)
    weight = layer(24, 8, scheme).weight
    outputs = [
        np.square(
            x @ weight[0] - xq @ values_of(solve(LayerProblem("fc", weight, scheme, inputs)), scheme)[0]
        ).sum()
        for inputs in (inputs_of(xq), inputs_of(x, xq))
    ]
    assert outputs[1] < 0.9 * outputs[0]


def test_one_scale_for_all_parts_stays_one() -> None:
    scheme = Scheme("int8", True, "per_tensor", method="gptq")
    solution = solve(layer(9, 1, scheme, n_parts=5))
    assert solution.scale.shape == (1, 1, 1)
    assert solution.codes.shape == (5, 9, 1)
    assert solution.report["loss"] <= solution.report["loss_rtn"]


@pytest.mark.parametrize("method", ["gptq", "flip", "awq", "k_quant"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_plain_rounding_of_all_methods_is_rtn(method: str, symmetric: bool) -> None:
    reports = [
        solve(layer(64, 16, int4(name, symmetric=symmetric, group_size=32), seed=5)).report
        for name in ("rtn", method)
    ]
    assert reports[1]["loss_rtn"] == pytest.approx(reports[0]["loss"], rel=1e-6)
