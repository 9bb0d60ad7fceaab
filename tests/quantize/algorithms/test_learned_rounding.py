"""What AdaRound, AdaQuant and SeqMSE promise for every layer, scheme and kind of input."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.config.schemes import Scheme
from disttune.quantize.algorithms.layer import LayerInputs, LayerProblem, LayerSolution
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.rounded import Rounded
from disttune.quantize.parameters import code_range
from tests.quantize.algorithms.layers import correlated, inputs_of, int4, layer

METHODS = ("adaround", "adaquant", "seqmse")
SCHEMES = [
    ("int4", True), ("uint4", False), ("uint4", True), ("int8", True), ("uint8", False), ("int8", False),
    ("int2", True), ("uint3", False), ("int16", True),
]  # fmt: skip


@st.composite
def problems(draw: st.DrawFn) -> LayerProblem:
    """Layers of every form, with dead, constant, few, huge and tiny inputs and weights."""
    method = draw(st.sampled_from(METHODS))
    dtype, symmetric = draw(st.sampled_from(SCHEMES))
    granularity = draw(st.sampled_from(["per_tensor", "per_channel", "per_group"]))
    n_parts, n_inputs, n_outputs = (draw(st.integers(1, most)) for most in (3, 9, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.normal(size=(n_parts, n_inputs, n_outputs)) * draw(st.sampled_from([1, 1e-30, 1e20]))
    match draw(st.sampled_from(["normal", "zero", "constant", "positive", "a zero column"])):
        case "zero":
            weight[:] = 0
        case "constant":
            weight[:] = 0.7
        case "positive":
            weight = np.abs(weight)
        case "a zero column":
            weight[..., 0] = 0
    n_rows = draw(st.sampled_from([1, 3, 40]))
    x = rng.normal(size=(n_parts, n_rows, n_inputs)) * draw(st.sampled_from([1, 1e-15, 1e12]))
    x[..., rng.random(n_inputs) < draw(st.sampled_from([0, 0.3, 1]))] = 0
    group_size = 4 if granularity == "per_group" else None
    options: tuple[tuple[str, int], ...]
    options = (("iterations", 30),) if method != "seqmse" else (("candidates", 8),)
    if method == "adaquant" and draw(st.booleans()):
        options = (("bias", True), *options)
    scheme = Scheme(dtype, symmetric, granularity, group_size, method, options=options)
    cross = draw(st.booleans())
    return LayerProblem(
        "fc",
        weight.astype(np.float32).astype(np.float64),
        scheme,
        inputs_of(x, x + rng.normal(size=x.shape) * np.abs(x) / 10 if cross else None),
        takes_shift=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_no_layer_ends_worse_than_by_plain_rounding(problem: LayerProblem) -> None:
    with np.errstate(all="raise", under="ignore"):
        solution = _solved(problem)
    assert np.isfinite(list(solution.report.values())).all()
    assert solution.report["loss"] <= solution.report["loss_rtn"] * (1 + 1e-9)
    lowest, highest = code_range(problem.scheme.dtype, problem.scheme.symmetric)
    assert solution.codes.dtype == np.int32
    assert ((solution.codes >= lowest) & (solution.codes <= highest)).all()
    plain = Rounded.plainly(problem.weight, problem.scheme)
    assert solution.scale.shape == plain.grid.scale.shape == solution.zero_point.shape
    assert solution.scale.dtype == np.float32
    assert (solution.scale > 0).all()
    assert ((solution.zero_point >= lowest) & (solution.zero_point <= highest)).all()
    if problem.scheme.symmetric:
        assert np.array_equal(solution.zero_point, plain.grid.zero_point)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_same_problem_gives_the_same_bits(problem: LayerProblem) -> None:
    first, again = _solved(problem), _solved(problem)
    assert np.array_equal(first.codes, again.codes)
    assert first.scale.tobytes() == again.scale.tobytes()
    assert first.history == again.history


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "symmetric"), SCHEMES[:6])
@pytest.mark.parametrize("group_size", [None, 16])
def test_report_states_the_error_on_the_inputs_themselves(
    method: str, dtype: str, symmetric: bool, group_size: int | None
) -> None:
    x = np.stack([correlated(50, 40, seed) for seed in range(2)])
    granularity = "per_group" if group_size else "per_channel"
    scheme = Scheme(dtype, symmetric, granularity, group_size, method)
    problem = LayerProblem("fc", layer(40, 5, scheme, n_parts=2).weight, scheme, inputs_of(x))
    solution = _solved(problem)
    found = np.square(x @ (problem.weight - _values(problem, solution))).sum() / 50
    plain = np.square(x @ (problem.weight - Rounded.plainly(problem.weight, scheme).values)).sum() / 50
    assert solution.report["loss"] == pytest.approx(found)
    assert solution.report["loss_rtn"] == pytest.approx(plain)
    assert found < plain or (method == "seqmse" and found == plain)  # the full range may be the best


@pytest.mark.parametrize("method", ["adaround", "adaquant"])
def test_history_falls_from_plain_rounding_to_the_end(method: str) -> None:
    solution = _solved(layer(40, 6, int4(method)))
    iterations, losses = zip(*solution.history, strict=True)
    assert iterations[0] == 0
    assert list(iterations) == sorted(iterations)
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[0] == solution.report["loss_rtn"]
    assert losses[-1] == solution.report["loss"]
    assert len(set(losses)) > 4


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_a_depthwise_conv_are_solved_each_with_its_own_inputs(method: str) -> None:
    scheme = int4(method)
    many = layer(9, 1, scheme, n_parts=12)
    assert many.inputs is not None
    together = _solved(many)
    for i in (0, 7):
        one = slice(i, i + 1)
        inputs = replace(
            many.inputs,
            gram=many.inputs.gram[one],
            total=many.inputs.total[one],
            absolute=many.inputs.absolute[one],
        )
        alone = _solved(replace(many, weight=many.weight[one], inputs=inputs))
        assert np.array_equal(alone.codes[0], together.codes[i])


@pytest.mark.parametrize("method", METHODS)
def test_quantized_models_inputs_are_made_up_for(method: str) -> None:
    x = correlated(400, 12)
    rng = np.random.default_rng(3)
    xq = x + rng.normal(size=x.shape) * 0.3
    scheme = Scheme("int8", True, "per_channel", method=method)
    weight = layer(12, 6, scheme).weight
    own = _solved(LayerProblem("fc", weight, scheme, inputs_of(xq)))
    crossed = LayerProblem("fc", weight, scheme, inputs_of(x, xq))
    errors = [
        np.square(x @ weight[0] - xq @ _values(crossed, solution)[0]).sum()
        for solution in (own, _solved(crossed))
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("method", METHODS)
def test_without_data_the_message_names_the_op(method: str) -> None:
    with pytest.raises(TrialError, match=r"fc7.*calibration data"):
        _solved(LayerProblem("fc7", np.ones((1, 4, 2)), int4(method)))


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_are_not_finite_name_the_op(method: str) -> None:
    inputs = LayerInputs(3, np.full((1, 4, 4), np.nan), np.zeros((1, 4)), np.zeros((1, 4)))
    with pytest.raises(TrialError, match=r"fc7.*NaN"):
        _solved(LayerProblem("fc7", np.ones((1, 4, 2)), int4(method), inputs))


def _solved(problem: LayerProblem) -> LayerSolution:
    return find_layer_algorithm(problem.scheme.method).solve(problem)


def _values(problem: LayerProblem, solution: LayerSolution) -> np.ndarray:
    grid = Rounded.plainly(problem.weight, problem.scheme).grid
    grid = replace(grid, scale=solution.scale, zero_point=solution.zero_point)
    return Rounded(grid, solution.codes).values
