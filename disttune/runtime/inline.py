"""Trials within the agent's own process (`runtime.isolation = "none"`): for functions that cannot be pickled.

A crash, hang or out-of-memory of an evaluation is then one of the whole rank.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from disttune.runtime.blas_threads import one_blas_thread
from disttune.runtime.messages import EvaluateModel
from disttune.runtime.start_messages import MeasureBaseline
from disttune.runtime.supervisor import Death
from disttune.runtime.trial_worker import TrialWorker

OF_THE_USER = (EvaluateModel, MeasureBaseline)  # what runs their code keeps its threads


class InlineHost:
    """Has the interface of a `Supervisor`; a message is handled while it is sent.

    Args:
        handed: the functions that `autotune()` was given, not pickled.
    """

    def __init__(self, handed: Mapping[str, Any] | None = None) -> None:
        self.memory_limit_bytes: int | None = None  # cannot be kept: the memory is the rank's own
        self._worker = TrialWorker(handed=handed)
        self._answers: list[Any] = []

    def start(self) -> None:
        pass

    def descriptors(self) -> list[int]:
        return []

    def send(self, message: object) -> None:
        with nullcontext() if isinstance(message, OF_THE_USER) else one_blas_thread():
            answer = self._worker.handle(message)
        if answer is not None:
            self._answers.append(answer)

    def poll(self) -> tuple[list[Any], Death | None]:
        answers, self._answers = self._answers, []
        return answers, None

    def kill(self, status: str, reason: str) -> Death:
        return Death(status, reason, "")

    def take_log(self) -> str:
        return ""

    def mark_tail(self) -> None:
        pass

    def tail(self) -> str:
        return ""

    def close(self) -> None:
        pass
