"""Metrics that are a mean over samples, scored block by block.

The result does not depend on how blocks are grouped, or in which order they come: scores are summed
exactly (`math.fsum`). So a trial can be split, and a score once known can be kept.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from disttune.config.errors import TrialError, UserCodeError
from disttune.config.nearest import unknown_name

Scores = NDArray[np.float64]
Score = Callable[[Sequence[Any], Any], Any]
Reduction = Literal["mean", "sum"] | Callable[[Scores], float]


class Runnable(Protocol):
    """What a `SampleEvaluator` needs of a model: an `InferenceSession` or `QuantizedModel`."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> Sequence[Any]: ...


class SampleEvaluator:
    """An evaluation function that scores each sample by itself; use it where an `eval_fn` is asked for.

    Args:
        dataset: blocks of samples, each {input name: array} or a pair of that and the targets. It is
            indexed when it has a length and indices, else read once into a list.
        score: `score(outputs, targets)` gives one number for each sample of a block, shape (n,);
            `outputs` are the model's outputs in their order, `targets` None where a block has none.
        reduce: "mean" (default), "sum", or a function of all scores in sample order.
        output_names: the outputs to compute, all by default.
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        score: Score,
        reduce: Reduction = "mean",
        output_names: Sequence[str] | None = None,
    ):
        if not callable(reduce) and reduce not in ("mean", "sum"):
            raise UserCodeError(f"SampleEvaluator: {unknown_name('reduction', str(reduce), ('mean', 'sum'))}")
        indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self._blocks: Sequence[Any] = dataset if indexed else list(dataset)  # type: ignore[assignment]
        if len(self._blocks) == 0:
            raise UserCodeError("SampleEvaluator: the data set is empty; give at least one block of samples")
        self._score = score
        self._reduce = reduce
        self._output_names = output_names

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def __call__(self, model: Runnable) -> float:
        """The metric of a model over all samples."""
        return self.combine({i: self.score_block(model, i) for i in range(self.n_blocks)})

    def outputs(self, model: Runnable, block: int) -> Sequence[Any]:
        """The model's outputs for one block."""
        feeds, _ = _split(self._blocks[block], block)
        return model.run(self._output_names, feeds)

    def score_block(self, model: Runnable, block: int) -> Scores:
        """Scores of the samples of one block, shape (n,)."""
        _, targets = _split(self._blocks[block], block)
        scores = np.asarray(self._score(self.outputs(model, block), targets))
        if scores.ndim != 1 or scores.dtype.kind not in "fiub":
            raise TrialError(
                f"the score function returned shape {scores.shape} of type {scores.dtype} for block {block}; "
                "expected one number for each sample, shape (n,)"
            )
        return scores.astype(np.float64)

    def combine(self, scores: Mapping[int, Scores]) -> float:
        """The metric from the scores of all blocks.

        Args:
            scores: by block, in any order.
        Raises:
            TrialError: blocks are missing, or there is no sample.
        """
        if missing := sorted(set(range(self.n_blocks)) - set(scores)):
            raise TrialError(f"{len(missing)} of {self.n_blocks} blocks have no scores, first {missing[0]}")
        return self.reduce(np.concatenate([scores[i] for i in range(self.n_blocks)]))

    @property
    def is_reduced_by_function(self) -> bool:
        """Whether the metric is neither the sum nor the mean of scores."""
        return callable(self._reduce)

    def n_targets(self, block: int) -> int:
        """Targets that a block has."""
        _, targets = _split(self._blocks[block], block)
        return len(targets)

    def reduce(self, values: Scores) -> float:
        """The metric from the scores of all samples, in order.

        Raises:
            TrialError: there is no sample.
        """
        if not len(values):
            raise TrialError("the data set has no samples")
        if callable(self._reduce):
            return self._reduce(values)
        total = math.fsum(values) if np.isfinite(values).all() else float(values.sum())
        return total / len(values) if self._reduce == "mean" else total


def _split(item: Any, block: int) -> tuple[Mapping[str, Any], Any]:
    if isinstance(item, Mapping):
        return item, None
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Mapping):
        return item[0], item[1]
    raise TrialError(
        f"block {block} of the data set has type {type(item).__name__}; "
        "expected {input name: array} or a pair of that and the targets"
    )
