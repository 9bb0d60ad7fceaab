"""Evaluator: one function or several, each with a weight; the metric is the weighted sum."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from disttune.config.errors import InputError, UserCodeError

EvalFn = Callable[[Any], float]


class Evaluator:
    """Evaluation functions of a model.

    Args:
        eval_fns: as `set_eval_fn_registry` takes them.
    """

    EVAL_FN = "eval_fn"
    WEIGHT = "weight"
    FN_NAME = "name"

    def __init__(self, eval_fns: Any = None) -> None:
        self.eval_fn_registry: list[dict[str, Any]] = []
        self.set_eval_fn_registry(eval_fns)

    def set_eval_fn_registry(
        self, user_eval_fns: EvalFn | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Take over functions.

        Args:
            user_eval_fns: a function; a dict {"eval_fn": function, "weight": 1.0, "name": "accuracy"} of
                which only the first is needed; a list of both; or None.
        Raises:
            UserCodeError: anything else.
        """
        if user_eval_fns is None:
            return
        from disttune.evaluate.evaluators import specs_from_functions

        self.eval_fn_registry = [
            {
                self.EVAL_FN: spec.function,
                self.WEIGHT: 1.0 if spec.weight is None else spec.weight,
                self.FN_NAME: spec.name or getattr(spec.function, "__name__", "eval_fn"),
            }
            for spec in specs_from_functions(user_eval_fns)
        ]

    def evaluate(self, model: Any) -> float:
        """Sum of weight x result over all functions.

        Raises:
            InputError: there is no function.
            UserCodeError: one gave no finite number.
        """
        self.self_check()
        terms = []
        for entry in self.eval_fn_registry:
            result = entry[self.EVAL_FN](model)
            if isinstance(result, bool) or not isinstance(result, int | float) or not math.isfinite(result):
                raise UserCodeError(f'evaluation function "{entry[self.FN_NAME]}" returned {result!r}')
            terms.append(entry[self.WEIGHT] * result)
        return math.fsum(terms)

    def get_number_of_eval_functions(self) -> int:
        return len(self.eval_fn_registry)

    def self_check(self) -> None:
        """Raise InputError when there is no function."""
        if not self.eval_fn_registry:
            raise InputError("Evaluator has no evaluation function: give one with set_eval_fn_registry")
