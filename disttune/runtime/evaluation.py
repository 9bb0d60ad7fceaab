"""Evaluating built models in a trial process, whole or in parts; a session stays open from part to part."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from disttune.evaluate.blocks import combine_scores, score_blocks
from disttune.evaluate.early_stop import Watched, bounds_of, watch
from disttune.evaluate.evaluators import evaluate
from disttune.evaluate.model import QuantizedModel
from disttune.quantize.shared_tensors import SharedTensors
from disttune.runtime.built_model import BuiltModel
from disttune.runtime.job_data import JobData
from disttune.runtime.messages import PartScored
from disttune.schedule.early_stop import StopRule
from disttune.schedule.outcome import Outcome


class Evaluation:
    """Holds the model that parts are being scored of.

    Args:
        data: of the job.
        shared: what is known of a blueprint's tensors.
    """

    def __init__(self, data: JobData, shared: SharedTensors):
        self._data = data
        self._shared = shared
        self._model: QuantizedModel | None = None

    def whole(self, built: BuiltModel, packed: bool, rule: StopRule | None = None) -> Outcome:
        """Measure it.

        Args:
            rule: when it may end early.
        Raises:
            TrialError: an evaluator raised, or gave no finite number.
        """
        packed = packed or self._data.packs_weights
        started_s = time.monotonic()
        with self._data.model(built.source, self._shared, packed) as model:
            if self._data.is_watched:
                watched = watch(self._data.evaluators[0], model, rule, self._data.stop_test)
                return _watched(built, watched, time.monotonic() - started_s, packed)
            values = evaluate(self._data.evaluators, model)
        return _outcome(built, values, time.monotonic() - started_s, packed)

    def part(self, assignment: int, built: BuiltModel, packed: bool, blocks: range) -> PartScored:
        """Score some blocks and keep the session.

        Raises:
            TrialError: an evaluator raised, or onnxruntime refuses the model.
        """
        started_s = time.monotonic()
        opening_s = None
        if self._model is None:
            self._model = self._data.model(built.source, self._shared, packed or self._data.packs_weights)
            self._model.session  # noqa: B018 - made here, so that its cost is known
            opening_s = time.monotonic() - started_s
        scores = score_blocks(self._data.evaluators, self._model, blocks)
        return PartScored(assignment, blocks, scores, time.monotonic() - started_s, opening_s)

    def combine(self, built: BuiltModel, packed: bool, scores: Sequence[Any]) -> Outcome:
        """The metrics from the scores of all blocks.

        Raises:
            TrialError: what is made of the scores is no finite number, or raised.
        """
        started_s = time.monotonic()
        values = combine_scores(self._data.evaluators, scores)
        outcome = _outcome(built, values, time.monotonic() - started_s, packed or self._data.packs_weights)
        if self._data.is_watched:
            outcome = replace(
                outcome, bounds=bounds_of(self._data.evaluators[0], scores, self._data.stop_test)
            )
        return outcome

    def close(self) -> None:
        """No more parts of this model."""
        if self._model is not None:
            self._model.close()
            self._model = None


def _watched(built: BuiltModel, watched: Watched, evaluation_s: float, packed: bool) -> Outcome:
    measured = replace(_outcome(built, (), evaluation_s, packed), bounds=watched.bounds)
    if watched.error is not None:
        return replace(measured, status="failed", values=None, reason=str(watched.error))
    if watched.value is None:
        return replace(measured, status="pruned", values=None, reason="stopped early")
    return replace(measured, values=(watched.value,))


def _outcome(built: BuiltModel, values: tuple[float, ...], evaluation_s: float, packed: bool) -> Outcome:
    return Outcome(
        "ok",
        values,
        model_digest=built.model_digest,
        size_bytes=built.size_bytes,
        n_quantized=built.n_quantized,
        evaluation_s=evaluation_s,
        packed=packed,
    )
