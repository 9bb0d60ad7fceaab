"""A trial's evaluation in parts: the blocks of samples of all evaluators in one row, scored in any order.

The metrics are the same, bit for bit, however the blocks are shared out: blocks are fixed, each is scored
by itself, and what is made of all scores is made once, in the order of samples.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from disttune.config.errors import InternalError
from disttune.evaluate.evaluators import Evaluator, guarded
from disttune.evaluate.metric_value import finite_number
from disttune.evaluate.samples import SampleEvaluator, Scores


def n_blocks(evaluators: Sequence[Evaluator]) -> int:
    """How many blocks all evaluators have together; 0 when one is a function that takes a whole model."""
    counts = [_n_blocks(evaluator) for evaluator in evaluators]
    return sum(counts) if all(counts) else 0


def score_blocks(evaluators: Sequence[Evaluator], model: Any, blocks: range) -> tuple[Scores, ...]:
    """Scores of the samples of each of these blocks.

    Raises:
        TrialError: as `evaluate` does.
    """
    found = []
    for evaluator, samples, places in _places(evaluators):
        inside = range(max(blocks.start, places.start), min(blocks.stop, places.stop))
        for place in inside:
            block = place - places.start
            found.append(guarded(evaluator, lambda s=samples, b=block: s.score_block(model, b)))  # type: ignore[misc]
    return tuple(found)


def combine_scores(evaluators: Sequence[Evaluator], scores: Sequence[Scores]) -> tuple[float, ...]:
    """The metrics from the scores of all blocks.

    Args:
        evaluators: in the order of the result.
        scores: of every block, in order.
    Raises:
        TrialError: as `evaluate` does.
    """
    values = []
    for evaluator, samples, places in _places(evaluators):
        own = {place - places.start: np.asarray(scores[place]) for place in places}
        value = guarded(evaluator, lambda s=samples, o=own: s.combine(o))  # type: ignore[misc]
        values.append(finite_number(value, evaluator.label))
    return tuple(values)


def _places(evaluators: Sequence[Evaluator]) -> Iterator[tuple[Evaluator, SampleEvaluator, range]]:
    """Each evaluator with the places of its blocks."""
    first = 0
    for evaluator in evaluators:
        samples = evaluator.function
        if not isinstance(samples, SampleEvaluator):
            raise InternalError(f'evaluator "{evaluator.name}" cannot be called in parts')
        yield evaluator, samples, range(first, first + samples.n_blocks)
        first += samples.n_blocks


def _n_blocks(evaluator: Evaluator) -> int:
    function = evaluator.function
    if isinstance(function, SampleEvaluator) and type(function).__call__ is SampleEvaluator.__call__:
        return function.n_blocks
    return len(evaluator.inputs)  # of a metric that waits for the float model's outputs
