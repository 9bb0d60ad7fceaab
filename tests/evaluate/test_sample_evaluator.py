import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import TrialError, UserCodeError
from disttune.evaluate.evaluators import build_evaluators, evaluate, specs_from_functions
from disttune.evaluate.model import QuantizedModel
from disttune.evaluate.samples import SampleEvaluator
from tests.evaluate.small_models import linear, rows


class Echo:
    """A model whose outputs are its inputs."""

    def run(self, output_names, input_feed):
        return list(input_feed.values())


def first_column(outputs, targets):
    return outputs[0][:, 0] - (0 if targets is None else targets)


SCORES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40)


def blocks_of(scores, size):
    column = np.array(scores).reshape(-1, 1)
    return [{"x": column[i : i + size]} for i in range(0, len(column), size)]


@given(SCORES, st.integers(1, 9), st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_block_size_or_order(scores, size, shuffle: random.Random):
    whole = SampleEvaluator(blocks_of(scores, len(scores)), first_column)
    split = SampleEvaluator(blocks_of(scores, size), first_column)
    order = list(range(split.n_blocks))
    shuffle.shuffle(order)
    assert split.combine({i: split.score_block(Echo(), i) for i in order}) == whole(Echo())


def test_it_runs_a_model_and_takes_targets(tmp_path):
    dataset = [({"x": rows(3)}, rows(3)[:, 0]), ({"x": rows(2)}, rows(2)[:, 0] - 5)]
    evaluator = SampleEvaluator(dataset, first_column)
    with QuantizedModel(linear(), 1, directory=tmp_path) as model:
        assert evaluator(model) == pytest.approx(2.0)


def test_it_is_an_eval_fn(tmp_path):
    specs = specs_from_functions(SampleEvaluator([{"x": rows(3)}], first_column))
    evaluators = build_evaluators(specs, tmp_path, (), ())
    assert evaluate(evaluators, Echo()) == (float(np.mean(rows(3)[:, 0], dtype=np.float64)),)


def test_sums_and_other_reductions():
    dataset = blocks_of([1.0, 2.0, 6.0], 2)
    assert SampleEvaluator(dataset, first_column, reduce="sum")(Echo()) == 9
    assert SampleEvaluator(dataset, first_column, reduce=np.median)(Echo()) == 2
    with pytest.raises(UserCodeError, match=r'no reduction "meen". Nearest: "mean"'):
        SampleEvaluator(dataset, first_column, reduce="meen")


def test_truth_values_are_scores():
    assert SampleEvaluator(blocks_of([1.0, 2.0, 3.0, 4.0], 3), lambda o, t: o[0][:, 0] > 1)(Echo()) == 0.75


def test_a_dataset_without_indices_is_read_once():
    evaluator = SampleEvaluator((b for b in blocks_of([1.0, 3.0], 1)), first_column)
    assert [evaluator(Echo()), evaluator(Echo())] == [2, 2]


def test_a_nan_score_is_not_hidden():
    assert np.isnan(SampleEvaluator(blocks_of([1.0, np.nan], 1), first_column)(Echo()))


def test_an_empty_dataset_is_refused():
    with pytest.raises(UserCodeError, match="the data set is empty"):
        SampleEvaluator([], first_column)


def test_missing_blocks_are_told():
    evaluator = SampleEvaluator(blocks_of([1.0, 2.0, 3.0], 1), first_column)
    with pytest.raises(TrialError, match="2 of 3 blocks have no scores, first 1"):
        evaluator.combine({0: np.ones(1)})


@pytest.mark.parametrize("wrong", [1.0, np.ones((2, 2)), np.array(["a"]), None])
def test_scores_must_be_one_number_for_each_sample(wrong):
    with pytest.raises(TrialError, match=r"expected one number for each sample, shape \(n,\)"):
        SampleEvaluator([{"x": rows(2)}], lambda outputs, targets: wrong)(Echo())


def test_a_block_of_another_form_is_told():
    with pytest.raises(TrialError, match="block 1 of the data set has type ndarray"):
        SampleEvaluator([{"x": rows(2)}, rows(2)], first_column)(Echo())
