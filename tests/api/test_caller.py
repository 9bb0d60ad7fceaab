"""`autotune` leaves its caller as it was, goes on where it ended, and keeps functions out of this process."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from disttune.config.errors import InputError, RunDirectoryError, UserCodeError
from disttune.runtime.journal import read_journal
from disttune.runtime.records import ResultRecord
from tests.api.jobs import HERE, TWO, X, evaluate, metrics, save_model, tuned

LOCK = threading.Lock()
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def locked(model: Any) -> float:
    with LOCK:
        return evaluate(model)


def through_another(model: Any) -> float:
    return locked(model)


class Measure:
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, model: Any) -> float:
        return evaluate(model)

    def method(self, model: Any) -> float:
        return evaluate(model)


def scaled(factor: float):
    def inner(model: Any) -> float:
        return factor * evaluate(model)

    return inner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path)
    return tmp_path


def n_measured(folder: Path) -> int:
    return sum(isinstance(r, ResultRecord) for r in read_journal(folder / "run" / "journal.jsonl").records)


# The caller


def state() -> dict[str, Any]:
    return {
        "signals": [signal.getsignal(s) for s in SIGNALS],
        "cwd": Path.cwd(),
        "threads": set(threading.enumerate()),
        "children": psutil.Process().children(recursive=True),
        "descriptors": psutil.Process().num_fds(),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("config", [TWO, HERE], ids=["trial process", "in this process"])
def test_signals_folder_threads_children_and_descriptors_are_left_as_they_were(folder, config):
    tuned(folder, tune_config=config)  # the first call loads libraries
    before = state()

    tuned(folder, tune_config=config, run_directory=folder / "second")

    assert state() == before


def test_a_mistake_leaves_the_caller_as_it_was_too(folder):
    before = state()
    with pytest.raises(InputError):
        tuned(folder, model=folder / "no.onnx")
    assert state() == before


def test_nothing_is_written_to_standard_output_when_quiet(folder, capfd):
    tuned(folder, tune_config=HERE)

    assert capfd.readouterr().out == ""


def test_it_may_be_called_from_another_thread(folder):
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(tuned(folder, tune_config=HERE)))

    thread.start()
    thread.join()

    assert len(metrics(results[0])) == 2


def test_functions_of_a_notebook_have_no_source_and_work(folder):
    cell = "def evaluate(model):\n    return float(np.abs(model.run(None, {'x': X})[0]).mean())\n"
    notebook = {"__name__": "__main__", "np": np, "X": X}
    exec(compile(cell, "<ipython-input-1>", "exec"), notebook)

    assert metrics(tuned(folder, eval_fn=notebook["evaluate"])) == metrics(
        tuned(folder, tune_config=HERE, run_directory=folder / "here")
    )


# Going on


def test_the_same_call_again_returns_what_is_known(folder):
    first = tuned(folder)
    second = tuned(folder)

    assert second.result.trials == first.result.trials
    assert second.proto.SerializeToString() == first.proto.SerializeToString()
    assert n_measured(folder) == 2


def test_a_larger_budget_goes_on_where_the_first_ended(folder):
    tuned(folder, tune_config={**HERE, "tuning": {**HERE["tuning"], "max_trials": 1}})
    assert n_measured(folder) == 1

    q = tuned(folder, tune_config=HERE)

    assert len(metrics(q)) == n_measured(folder) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"eval_fn": scaled(3.0)}, "code: "),  # the same source with another value in its closure
        ({"calibration_data_reader": [{"x": 2 * X}]}, "data: "),
        ({"tune_config": {**HERE, "accuracy": {"tolerable_loss": 0.5}}}, "accuracy.tolerable_loss: "),
    ],
)
def test_another_function_data_or_goal_in_the_same_directory_is_refused_and_fresh_starts_anew(
    folder, changes, named
):
    arguments = {"tune_config": HERE, "eval_fn": scaled(2.0)}
    first = tuned(folder, **arguments)
    with pytest.raises(RunDirectoryError if "accuracy" in named else InputError) as caught:
        tuned(folder, **{**arguments, **changes})
    (line,) = [x for x in str(caught.value).splitlines() if named in x]
    old, new = line.partition("the journal holds ")[2].split(", this job has ")
    assert old != new

    again = tuned(folder, **{**arguments, **changes}, fresh=True)

    assert again.result.trials != first.result.trials or again.result.goal != first.result.goal


def test_a_mistake_is_corrected_in_the_same_directory(folder):
    with pytest.raises(InputError, match="returned None"):
        tuned(folder, eval_fn=lambda model: None)

    assert len(metrics(tuned(folder))) == 2


# What cannot be pickled


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (locked, 'eval_fn locked, which uses "LOCK" (_thread.lock)'),
        (
            through_another,
            'eval_fn through_another, which uses "locked" (builtins.function), which uses "LOCK"',
        ),
        (Measure(), 'eval_fn, which uses "lock" (_thread.lock)'),
        (
            Measure().method,
            'eval_fn method, which uses "self" (tests.api.test_caller.Measure), which uses "lock"',
        ),
        ([evaluate, {"eval_fn": locked}], 'eval_fn locked, which uses "LOCK" (_thread.lock)'),
    ],
    ids=["function", "function of a function", "object", "method", "one of several"],
)
def test_what_cannot_be_pickled_is_named_with_the_mend(folder, function, named):
    with pytest.raises(UserCodeError) as caught:
        tuned(folder, eval_fn=function)
    assert str(caught.value).startswith(named)
    assert str(caught.value).endswith(
        "make the object inside the function, or run trials in the caller's process with "
        'runtime.isolation = "none"'
    )
    assert not (folder / "run").exists()


def test_a_session_that_a_function_holds_is_named(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    with pytest.raises(UserCodeError, match=r'eval_fn <lambda>, which uses "session" \(onnxruntime\.'):
        tuned(folder, eval_fn=lambda model: float(session.run(None, {"x": X})[0].mean()))


def test_a_feed_that_cannot_be_pickled_is_named(folder):
    with pytest.raises(UserCodeError, match="calibration feeds cannot be pickled"):
        tuned(folder, calibration_data_reader=[{"x": X, "lock": threading.Lock()}])


@pytest.mark.parametrize("function", [locked, Measure(), Measure().method])
def test_without_isolation_any_function_will_do(folder, function):
    q = tuned(folder, tune_config=HERE, eval_fn=function)

    assert len(metrics(q)) == 2


def test_with_isolation_the_evaluation_runs_in_another_process(folder):
    pids = folder / "pids"

    def tell_pid(model: Any) -> float:
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return evaluate(model)

    tuned(folder, eval_fn=tell_pid)

    seen = {int(line) for line in pids.read_text().split()}
    assert len(seen) == 1
    assert os.getpid() not in seen
