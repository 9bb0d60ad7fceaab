"""AWQ against loops over real inputs as its paper has them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.grid import Grid, grid_of, has_signed_scales
from disttune.quantize.algorithms.layer import Floats, JointAlgorithm, LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from tests.quantize.algorithms.layers import inputs_of, int4, layer


def salient(n_rows: int, n_inputs: int, seed: int = 0) -> Floats:
    """Inputs of which a few are far larger, as in language models."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(n_rows, n_inputs)) * np.exp(rng.normal(size=n_inputs)))


def problem_of(x: Floats, n_outputs: int, scheme: Scheme, seed: int = 0) -> LayerProblem:
    return LayerProblem("fc", layer(x.shape[1], n_outputs, scheme, seed=seed).weight, scheme, inputs_of(x))


def outputs_of(x: Floats, solution: LayerSolution, scheme: Scheme) -> Floats:
    values = Grid(solution.scale, solution.zero_point, (0, 15), scheme.group_size).values(solution.codes)[0]
    return (x if solution.input_scale is None else x / solution.input_scale) @ values


def papers_scale(x: Floats, weights: list[Floats], scheme: Scheme) -> tuple[Floats | None, float]:
    """The search of the paper on real inputs: scale and loss."""
    best, least = None, np.inf
    magnitude = np.abs(x).mean(axis=0)
    for i in range(20):
        scale = magnitude ** (i / 20)
        scale /= np.sqrt(scale.max() * scale.min())
        loss = 0.0
        for weight in weights:
            scaled = (scale[:, None] * weight)[None]
            grid = grid_of(scaled, scheme)
            loss += np.square(x @ weight - (x / scale) @ grid.values(grid.round(scaled))[0]).sum()
        if loss < least:
            best, least = (scale if i else None), loss
    return best, least


@pytest.mark.parametrize("group_size", [None, 16])
def test_scale_and_loss_are_those_of_the_papers_loop_over_real_inputs(group_size: int | None) -> None:
    x = salient(300, 64)
    scheme = int4("awq", group_size=group_size, clip_search=False)
    problem = problem_of(x, 32, scheme)
    solution = find_layer_algorithm("awq").solve(problem)
    scale, loss = papers_scale(x, [problem.weight[0]], scheme)
    assert scale is not None
    assert solution.input_scale == pytest.approx(scale, rel=1e-5)
    direct = np.square(x @ problem.weight[0] - outputs_of(x, solution, scheme)).sum() / 300
    assert solution.report["loss"] == pytest.approx(direct, rel=1e-6)
    assert direct == pytest.approx(loss / 300, rel=1e-2)
    assert direct < 0.9 * solution.report["loss_rtn"]


def test_layers_of_one_input_share_the_scale_that_is_best_for_all() -> None:
    x = salient(200, 48)
    scheme = int4("awq", group_size=16, clip_search=False)
    problems = [problem_of(x, n, scheme, seed=n) for n in (8, 40)]
    algorithm = find_layer_algorithm("awq")
    assert isinstance(algorithm, JointAlgorithm)
    solutions = algorithm.solve_together(problems)
    scale, _ = papers_scale(x, [p.weight[0] for p in problems], scheme)
    for solution in solutions:
        assert solution.input_scale == pytest.approx(scale, rel=1e-5)


def test_clipping_takes_the_share_of_least_error_of_each_group() -> None:
    x = np.random.default_rng(1).normal(size=(200, 32))
    scheme = int4("awq", group_size=16, scale_search=False)
    weight = np.random.default_rng(0).standard_t(3, size=(1, 32, 6))
    problem = LayerProblem("fc", weight, scheme, inputs_of(x))
    solution = find_layer_algorithm("awq").solve(problem)
    kept = 0
    for n in range(6):
        ranges = []
        for b in (slice(0, 16), slice(16, 32)):
            part, costs = weight[0, b, n], []
            for i in range(10):
                clipped = np.clip(part, part.min() * (1 - i / 20), part.max() * (1 - i / 20))
                grid = grid_of(clipped[None, :, None], int4("awq"))
                error = part - grid.values(grid.round(part[None, :, None]))[0, :, 0]
                costs.append((np.square(x[:, b] @ error).sum(), float(grid.scale[0, 0, 0])))
            ranges.append(min(costs)[1])
        kept += np.allclose(solution.scale[0, :, n], ranges, rtol=1e-5)
    assert kept >= 4  # a column that is worse as a whole keeps its ranges
    assert solution.report["loss"] < solution.report["loss_rtn"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([None, 8]), st.booleans(), st.booleans()
)
def test_no_layer_is_worse_than_by_rounding(
    seed: int, n_inputs: int, group_size: int | None, symmetric: bool, scale_search: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, n_inputs)) * (rng.random(n_inputs) > 0.2)
    scheme = int4("awq", symmetric=symmetric, group_size=group_size, scale_search=scale_search)
    problem = LayerProblem("fc", rng.normal(size=(1, n_inputs, 4)), scheme, inputs_of(x))
    solution = find_layer_algorithm("awq").solve(problem)
    plain = Rounded.plainly(problem.weight, scheme, signed=has_signed_scales(scheme)).values[0]
    rounded = np.square(x @ (problem.weight[0] - plain)).sum()
    found = np.square(x @ problem.weight[0] - outputs_of(x, solution, scheme)).sum()
    assert found <= rounded * (1 + 1e-5) + 1e-9
    assert solution.report["loss_rtn"] == pytest.approx(rounded / 6, rel=1e-6, abs=1e-12)


def test_inputs_that_are_all_zero_leave_plain_rounding() -> None:
    problem = problem_of(np.zeros((5, 8)), 3, int4("awq"))
    solution = find_layer_algorithm("awq").solve(problem)
    assert solution.input_scale is None
    assert np.array_equal(solution.codes, Rounded.plainly(problem.weight, problem.scheme).codes)


def test_inputs_of_a_grouped_conv_are_not_scaled() -> None:
    with pytest.raises(TrialError, match="fc: awq scales the inputs of MatMul and Gemm"):
        find_layer_algorithm("awq").solve(layer(9, 2, int4("awq"), n_parts=3))
