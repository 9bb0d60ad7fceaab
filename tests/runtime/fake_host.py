"""An agent with a trial process that only remembers what it is told, and a clock that a test sets."""

import os
from pathlib import Path
from typing import Any

from disttune.config.job_file import job_from_dict
from disttune.runtime.agent import Agent
from disttune.runtime.messages import Answer, Built, EvaluateModel, OpenFile, RunTask
from disttune.runtime.replica import create_memory_file, write_replica
from disttune.runtime.start_messages import Functions, Load, Loaded, Setup
from disttune.runtime.supervisor import Death
from disttune.schedule.outcome import Outcome
from tests.builders import chain
from tests.simulated import small_space

SPACE = small_space(3)
OK = Outcome("ok", (0.5,), model_digest="m", size_bytes=9, n_quantized=2, evaluation_s=1.0)


class FakeHost:
    """Has the interface of a `Supervisor`; says what a test puts into `says`, dies when `death` is set."""

    memory_limit_bytes: int | None = None

    def __init__(self) -> None:
        self.calls: list[object] = []  # "start", "close", a kill's reason, or a message
        self.says: list[object] = []
        self.death: Death | None = None
        self.log = ""
        self.last_lines = "last line"

    def start(self) -> None:
        self.calls.append("start")

    def send(self, message: object) -> None:
        self.calls.append(message)

    def poll(self) -> tuple[list[Any], Death | None]:
        says, self.says = self.says, []
        death, self.death = self.death, None
        return says, death

    def kill(self, status: str, reason: str) -> Death:
        self.calls.append(f"kill: {reason}")
        return Death(status, reason, self.last_lines)

    def take_log(self) -> str:
        text, self.log = self.log, ""
        return text

    def mark_tail(self) -> None: ...

    def tail(self) -> str:
        return self.last_lines

    def descriptors(self) -> list[int]:
        return []

    def close(self) -> None:
        self.calls.append("close")


class Rank:
    """An agent and what it says, as rank 3 of a job."""

    def __init__(self, **runtime: Any):
        self.now_s = 0.0
        self.host = FakeHost()
        self.told: list[object] = []
        self.sent: list[tuple[int, object]] = []
        self.agent = Agent(
            3, self.host, self.told.append, lambda to, m: self.sent.append((to, m)), lambda: self.now_s
        )
        self.job = job_from_dict(
            {"model": {"path": "m.onnx"}, "runtime": runtime}, Path("/jobs"), functions_given=True
        )
        self.agent.start()

    def gets(self, *messages: Any) -> "Rank":
        for message in messages:
            self.agent.receive(message)
        return self

    def hears(self, *messages: object) -> "Rank":
        """The trial process says these."""
        self.host.says += messages
        self.agent.poll()
        return self

    def dies(self, status: str = "crashed", reason: str = "signal SIGSEGV") -> "Rank":
        """The trial process ends."""
        self.host.death = Death(status, reason, "about to die")
        self.agent.poll()
        return self

    def waits(self, seconds: float) -> "Rank":
        """Polls ten times in this time."""
        for _ in range(10):
            self.now_s += seconds / 10
            self.agent.poll()
        return self

    def new_calls(self) -> list[object]:
        """What the trial process was told since the last call; a `Load` stands as "load"."""
        calls, self.host.calls = self.host.calls, []
        return ["load" if isinstance(c, Load) else c for c in calls]

    def news(self) -> list[object]:
        """What the master was told since the last call."""
        told, self.told[:] = list(self.told), []
        return told

    def ready(self) -> "Rank":
        """Set up, loaded, and everything said so far forgotten."""
        descriptor = create_memory_file()
        nonce = write_replica(descriptor, {"a": b"x"})
        self.gets(setup(self, OpenFile(os.getpid(), descriptor), nonce)).hears(Loaded())
        self.news()
        self.new_calls()
        return self


def setup(rank: Rank, source: OpenFile, nonce: bytes, **changes: Any) -> Setup:
    facts = {"job": rank.job, "functions": Functions(), "n_threads": 2, "summary": chain("Conv")}
    return Setup(source=source, nonce=nonce, **{**facts, **changes})


def task(assignment: int, timeout_s: float = 10.0) -> RunTask:
    return RunTask(assignment, assignment, SPACE[assignment % SPACE.size], timeout_s)


def built(assignment: int) -> Built:
    return Built(assignment, "m", 9, 2)


def answer(assignment: int, outcome: Outcome = OK) -> Answer:
    return Answer(assignment, outcome)


def evaluate(assignment: int) -> EvaluateModel:
    return EvaluateModel(assignment)
