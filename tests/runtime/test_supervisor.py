"""The supervisor of a real trial process: it is started, spoken to, watched, ended with all it started."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disttune.runtime import supervisor
from disttune.runtime.messages import Answer, RunTask
from disttune.runtime.supervisor import Death, Supervisor, trial_environment
from disttune.strategy import Probe

PATIENCE_S = 30.0
SKIP = "__import__('disttune.runtime.messages', fromlist=['SkipModel']).SkipModel(0)"


class Code:
    """A message that runs Python code where it is unpickled, in place of an evaluation that does so."""

    def __init__(self, code: str):
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (f"(exec({self.code!r}), {SKIP})[1]",)


class Watched(Supervisor):
    """A supervisor that a test can wait for."""

    def until(self, is_over: Callable[[list[Any], Death | None], bool]) -> tuple[list[Any], Death | None]:
        """Poll until this holds for the messages so far and the death."""
        messages: list[Any] = []
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            select.select(self.descriptors(), [], [], 0.05)
            arrived, death = self.poll()
            messages += arrived
            if is_over(messages, death):
                return messages, death
        raise TimeoutError(f"nothing after {PATIENCE_S} s; it wrote: {self.take_log()}")

    def answer_of(self, assignment: int) -> Answer:
        """What it answers to a probe that no engine knows."""
        self.send(RunTask(assignment, -1, Probe("no such probe"), 1.0))
        (answer,), _ = self.until(lambda messages, _: bool(messages))
        assert isinstance(answer, Answer)
        return answer

    def death(self) -> Death:
        _, death = self.until(lambda _, death: death is not None)
        assert death is not None
        return death


@pytest.fixture
def started() -> Iterator[Watched]:
    supervisor = Watched()
    supervisor.start()
    yield supervisor
    supervisor.close()


@pytest.fixture(scope="module")
def living() -> Iterator[Watched]:
    """One for the tests that leave it alive."""
    supervisor = Watched()
    supervisor.start()
    yield supervisor
    supervisor.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# A living process


def test_each_message_is_answered(living: Watched):
    answers = [living.answer_of(n) for n in (3, 4)]

    assert [a.assignment for a in answers] == [3, 4]
    assert answers[0].outcome.status == "failed"
    assert "no such probe" in answers[0].outcome.reason


def test_what_it_writes_is_in_the_log_and_its_last_lines_in_the_tail(living: Watched):
    living.take_log()
    living.send(Code("import sys; print('to stdout'); print('to stderr', file=sys.stderr)"))
    living.answer_of(5)

    assert living.tail().splitlines()[-2:] == ["to stdout", "to stderr"]
    assert "to stdout\nto stderr\n" in living.take_log()
    assert living.take_log() == ""


def test_lines_of_an_earlier_trial_are_not_in_the_tail(living: Watched):
    living.send(Code("print('earlier')"))
    living.answer_of(6)
    living.mark_tail()

    living.send(Code("print('now', end='')"))
    living.answer_of(7)

    assert living.tail() == "now"


def test_a_flood_of_output_keeps_the_last_lines(living: Watched):
    living.send(Code("print('x' * 79 + '\\n' * 1, end='') or [print(i) for i in range(20000)]"))
    living.answer_of(8)

    assert living.tail().splitlines()[-3:] == ["19997", "19998", "19999"]
    assert len(living.tail()) < 10_000


def test_it_is_the_head_of_a_group_of_its_own_and_reads_nothing(living: Watched):
    living.mark_tail()
    living.send(Code("import os; print(os.getpid() == os.getpgrp() == os.getsid(0), os.read(0, 1), end='')"))
    living.answer_of(9)

    assert living.tail() == "True b''"


# Its end


def test_a_process_that_ends_itself_is_told_with_its_code_and_another_can_be_started(started: Watched):
    started.send(Code("print('no more'); import os; os._exit(7)"))

    assert started.death() == Death("crashed", "the trial process ended itself with exit code 7", "no more")
    assert started.poll() == ([], None)
    assert started.descriptors() == []
    started.start()
    assert started.answer_of(1).assignment == 1
    assert started.tail() == ""


def test_a_signal_is_told_by_its_name(started: Watched):
    started.send(Code("import os, signal; os.kill(os.getpid(), signal.SIGBUS)"))

    death = started.death()

    assert (death.status, death.reason) == ("crashed", "the trial process ended by signal SIGBUS")


def test_killing_a_process_that_hangs_ends_what_it_started_too(started: Watched):
    started.send(
        Code(
            "import subprocess, time\n"
            "child = subprocess.Popen(['sleep', '1000'])\n"
            "print('child', child.pid, 'of', __import__('os').getpid(), 'runs')\n"
            "time.sleep(1000)"
        )
    )
    started.until(lambda *_: "runs" in started.tail())
    child, own = (int(word) for word in started.tail().split()[1:4:2])
    assert is_alive(child)

    begun_s = time.monotonic()
    death = started.kill("timeout", "too long")

    assert time.monotonic() - begun_s < 5
    assert death == Death("timeout", "too long", f"child {child} of {own} runs")
    assert not is_alive(own)
    deadline_s = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_alive(child)


def test_more_memory_than_the_limit_ends_it(started: Watched):
    started.answer_of(1)
    started.memory_limit_bytes = 400 * 2**20
    assert started.poll() == ([], None)

    started.send(Code("import time; held = b'x' * (450 * 2**20); time.sleep(1000)"))

    death = started.death()
    assert death.status == "out_of_memory"
    assert death.reason.startswith("used more than tuning.memory_limit = 400 MiB")


def test_closing_twice_is_no_error():
    supervisor = Supervisor()
    supervisor.close()
    supervisor.start()
    supervisor.close()
    supervisor.close()


# Environment


def test_the_environment_has_none_of_mpis_variables_and_one_thread_for_blas(monkeypatch: pytest.MonkeyPatch):
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_SIZE", "PRTE_X", "MPI_LOCALNRANKS", "I_MPI_ROOT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MY_DATA", "/data")
    monkeypatch.setenv("OMP_NUM_THREADS", "16")

    environment = trial_environment()

    assert not [k for k in environment if k.startswith(("OMPI_", "PMIX_", "PMI_", "PRTE_", "MPI_", "I_MPI_"))]
    assert environment["MY_DATA"] == "/data"
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_trial_process_takes_huge_pages_unless_the_user_says_otherwise(monkeypatch, given, found):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    assert trial_environment()["GLIBC_TUNABLES"] == found


def test_the_kernels_kill_for_want_of_memory_is_told_from_any_other(
    started: Watched, monkeypatch: pytest.MonkeyPatch
):
    n_kills = supervisor.kernel_oom_kills()
    monkeypatch.setattr(supervisor, "kernel_oom_kills", lambda: n_kills + 1)
    assert started._process is not None
    os.kill(started._process.pid, signal.SIGKILL)

    death = started.death()

    assert death.status == "out_of_memory"
    assert death.reason.startswith("the kernel ended the trial process: the memory of this node")
