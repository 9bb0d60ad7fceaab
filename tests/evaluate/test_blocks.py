"""Evaluations in parts: the same metrics, bit for bit, for any way of sharing out the blocks."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import TrialError
from disttune.evaluate.blocks import combine_scores, n_blocks, score_blocks
from disttune.evaluate.evaluators import (
    EvaluatorSpec,
    build_evaluators,
    evaluate,
    specs_from_functions,
)
from disttune.evaluate.metrics import metric_names
from disttune.evaluate.samples import SampleEvaluator
from disttune.quantize.summary import InputSpec

INPUT = (InputSpec("x", "float32", (None, 8)),)
N = 150  # ten blocks


class Noisy:
    """A model that gives its input, a little changed."""

    def run(self, output_names, input_feed):
        (x,) = input_feed.values()
        return [x + np.sin(x * 1e3).astype(np.float32) / 10]


class Exact:
    def run(self, output_names, input_feed):
        return list(input_feed.values())


def values(n, seed):
    return np.random.default_rng(seed).standard_normal((n, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    np.savez(path / "labels.npz", x=values(N, 0), labels=values(N, 1).argmax(axis=1))
    np.savez(path / "inputs.npz", x=values(N, 0))
    return path


def of_metric(name, folder):
    data = folder / ("labels.npz" if name == "top1" else "inputs.npz")
    (evaluator,) = build_evaluators([EvaluatorSpec(metric=name, data=data)], folder, INPUT, ("y",))
    assert n_blocks([evaluator]) == 10  # known before the float outputs are
    if evaluator.needs_reference:
        evaluator = evaluator.with_reference(evaluator.reference_outputs(Exact()))
    return evaluator


def in_parts(evaluators, model, cuts, shuffle):
    """Scored in parts that end at these blocks, in any order."""
    total = n_blocks(evaluators)
    ends = sorted({min(cut, total) for cut in cuts} | {total})
    parts = [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]
    shuffle.shuffle(parts)
    scores = {}
    for part in parts:
        scores |= zip(part, score_blocks(evaluators, model, part), strict=True)
    return combine_scores(evaluators, [scores[block] for block in range(total)])


METRICS = [name for name in metric_names() if name not in ("perplexity", "ssim")]


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 30), max_size=9), shuffle=st.randoms(use_true_random=False))
def test_every_metric_is_the_same_in_any_parts(folder, name, cuts, shuffle: random.Random):
    """The oracle is the evaluation in one piece."""
    evaluators = (of_metric(name, folder), of_metric("top1", folder))
    assert in_parts(evaluators, Noisy(), cuts, shuffle) == evaluate(evaluators, Noisy())


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 9), max_size=9), shuffle=st.randoms(use_true_random=False))
def test_perplexity_over_windows_is_the_same_in_any_parts(cuts, shuffle: random.Random):
    tokens = np.random.default_rng(3).integers(0, 16, (N, 12))
    logits = np.random.default_rng(4).standard_normal((16, 16)).astype(np.float32) * 3

    class Language:
        def run(self, output_names, input_feed):
            return [logits[input_feed["input_ids"]]]

    (evaluator,) = _perplexity(tokens)
    assert in_parts([evaluator], Language(), cuts, shuffle) == evaluate([evaluator], Language())


def _perplexity(tokens):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.npy")
        np.save(path, tokens)
        spec = EvaluatorSpec(metric="perplexity", data=path)
        inputs = (InputSpec("input_ids", "int64", (None, None)),)
        return build_evaluators([spec], Path(folder), inputs, ("logits",))


def samples(score, n=4, **options):
    return SampleEvaluator([{"x": values(3, seed)} for seed in range(n)], score, **options)


def of_functions(*functions):
    return build_evaluators(specs_from_functions(list(functions)), Path(), INPUT, ("y",))


def test_functions_that_take_a_whole_model_cannot_be_split():
    class Own(SampleEvaluator):
        def __call__(self, model):
            return 2 * super().__call__(model)

    plain = samples(lambda outputs, targets: outputs[0][:, 0])
    own = Own([{"x": values(3, 0)}], lambda outputs, targets: outputs[0][:, 0])
    assert n_blocks(of_functions(plain, plain)) == 8
    assert n_blocks(of_functions(plain, lambda model: 1.0)) == 0
    assert n_blocks(of_functions(plain, own)) == 0


def test_mistakes_have_the_message_of_an_evaluation_in_one_piece():
    def fails(outputs, targets):
        raise ValueError("no")

    for evaluators in (of_functions(samples(fails)), of_functions(samples(lambda o, t: 1.0))):
        with pytest.raises(TrialError) as whole:
            evaluate(evaluators, Exact())
        with pytest.raises(TrialError) as part:
            score_blocks(evaluators, Exact(), range(0, 2))
        assert str(part.value) == str(whole.value)


@pytest.mark.parametrize("reduce", [lambda scores: 1 / 0, lambda scores: float("nan")])
def test_mistakes_in_a_reduction_have_that_message_too(reduce):
    evaluators = of_functions(samples(lambda o, t: o[0][:, 0], reduce=reduce))
    with pytest.raises(TrialError) as whole:
        evaluate(evaluators, Exact())
    with pytest.raises(TrialError) as combined:
        combine_scores(evaluators, score_blocks(evaluators, Exact(), range(4)))
    assert str(combined.value) == str(whole.value)
