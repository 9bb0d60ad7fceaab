"""AdaRound against all roundings, and its slope against differences of the plain formula."""

import numpy as np
import pytest

from disttune.config.errors import TrialError
from disttune.quantize.algorithms.adaround import _Choices, _slope
from disttune.quantize.algorithms.grid import grid_of
from disttune.quantize.algorithms.layer import LayerProblem
from disttune.quantize.algorithms.objective import Objective
from disttune.quantize.algorithms.registry import find_layer_algorithm
from disttune.quantize.algorithms.relaxation import Relaxation
from disttune.quantize.algorithms.rounded import Rounded
from tests.quantize.algorithms.layers import correlated, inputs_of, int4, layer
from tests.quantize.algorithms.plain_rounding import least_rounding_loss, soft_loss

PLAIN = {"scale": "minmax", "flip": False, "refine_scale": False}  # the learning alone


@pytest.mark.parametrize("beta", [None, 2.0, 7.5, 20.0])
def test_slope_is_that_of_the_plain_formula(beta: float | None) -> None:
    x = correlated(60, 7, seed=1)
    problem = LayerProblem("fc", layer(7, 1, int4("adaround")).weight, int4("adaround"), inputs_of(x))
    plain = Rounded.plainly(problem.weight, problem.scheme)
    relaxation = Relaxation.of(plain, Objective.of_parts(problem))
    choices = _Choices.of(relaxation)
    free = np.random.default_rng(2).uniform(-2, 2, 7)  # h strictly between its ends
    factor = 0.0 if beta is None else 1.5
    penalty = np.float32(factor) * np.square(choices.steps) * relaxation.power
    found = _slope(choices, free.astype(np.float32)[None, :, None], penalty, beta)
    scale = np.broadcast_to(plain.grid.steps(7)[0], (7, 1))[:, 0]
    fraction, step = choices.fraction[0, :, 0].astype(float), 1e-6
    steps = np.where(choices.open[0, :, 0], scale, 0)
    rest = x @ (choices.fixed[0, :, 0] * scale)
    assert 5 <= choices.open.sum() < 7

    def loss(a: np.ndarray) -> float:
        return soft_loss(a, x, fraction, steps, rest, factor, beta or 2.0)

    expected = [(loss(free + step * e) - loss(free - step * e)) / (2 * step) for e in np.eye(7)]
    units = relaxation.units[0, 0, 0] * 60  # the relaxation's loss is without units and per row
    assert 2.4 * units * found[0, :, 0] == pytest.approx(expected, rel=2e-4, abs=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_comes_near_the_best_of_all_roundings(flip: bool) -> None:
    ratios = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(40, 10)) + 1
        scheme = int4("adaround", **{**PLAIN, "flip": flip})
        problem = LayerProblem("fc", layer(10, 1, scheme, seed=seed).weight, scheme, inputs_of(x))
        grid = grid_of(problem.weight, scheme)
        values = grid.values(find_layer_algorithm("adaround").solve(problem).codes)[0]
        found = np.square(x @ (problem.weight[0] - values)).sum()
        ratios.append(found / least_rounding_loss(x, problem.weight[0], grid))
    assert np.median(ratios) < 1.05
    assert np.mean(ratios) < 1.15


def test_loses_less_than_coordinate_descent_from_rounding() -> None:
    for seed in range(4):
        learned = layer(64, 32, int4("adaround", scale="minmax", refine_scale=False), seed=seed)
        descended = layer(64, 32, int4("flip"), seed=seed)
        found = find_layer_algorithm("adaround").solve(learned).report["loss"]
        assert found < find_layer_algorithm("flip").solve(descended).report["loss"]


def test_rounds_up_or_down_and_nothing_else() -> None:
    problem = layer(48, 8, int4("adaround", **PLAIN))
    codes, grid = (
        find_layer_algorithm("adaround").solve(problem).codes,
        grid_of(problem.weight, problem.scheme),
    )
    exact = problem.weight / grid.steps(48) + grid.zeros(48)
    inside = (exact >= grid.codes[0]) & (exact <= grid.codes[1])
    assert (np.abs(codes - exact)[inside] <= 1 + 1e-6).all()
    assert (codes != grid.round(problem.weight)).any()


def test_blocks_of_columns_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layer(24, 40, int4("adaround"))
    whole = find_layer_algorithm("adaround").solve(problem)
    monkeypatch.setattr("disttune.quantize.algorithms.relaxation._BLOCK_VALUES", 24 * 16)
    blocks = find_layer_algorithm("adaround").solve(problem)
    assert (whole.codes != blocks.codes).mean() < 0.01  # matrix products round differently by their width
    assert blocks.report["loss"] == pytest.approx(whole.report["loss"], rel=0.01)


def test_ends_before_its_iterations_when_every_choice_is_made() -> None:
    problem = layer(6, 4, int4("adaround", iterations=5000))
    assert find_layer_algorithm("adaround").solve(problem).report["iterations"] < 5000


def test_scale_option_says_what_is_valid() -> None:
    with pytest.raises(TrialError, match='scale = "mse": valid are auto, minmax, seqmse'):
        find_layer_algorithm("adaround").solve(layer(4, 2, int4("adaround", scale="mse")))
