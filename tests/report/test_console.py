"""What a user reads while a job runs, and what a program reads: one line for each thing that happened."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.goal import Goal, Objective
from disttune.report import console, wording
from disttune.report.console import ConsoleReport, JsonReport
from disttune.runtime.listener import Opening
from tests.report.results import SPACE, result, trial
from tests.simulated import small_space

GOAL = Goal((Objective("top1"),), (0.95,))


def opening(**changes: Any) -> Opening:
    facts: dict[str, Any] = {
        "run_directory": "/runs/first",
        "n_ranks": 4,
        "n_nodes": 2,
        "strategy": "random",
        "space": SPACE,
        "goal": GOAL,
        "n_resumed": 0,
        "max_trials": 12,
    }
    return Opening(**{**facts, **changes})


def lines(*calls: tuple[Any, ...], stream: io.TextIOBase | None = None) -> list[str]:
    """What a ConsoleReport writes for calls (method name, arguments ...)."""
    stream = stream or io.StringIO()
    report = ConsoleReport(stream)  # type: ignore[arg-type]
    for name, *arguments in calls:
        getattr(report, name)(*arguments)
    stream.seek(0)
    return stream.read().splitlines()


def events(*calls: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The same of a JsonReport, parsed."""
    stream = io.StringIO()
    report = JsonReport(stream)
    for name, *arguments in calls:
        getattr(report, name)(*arguments)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# For people


def test_phases_stages_and_warnings_are_a_line_each():
    assert lines(("phase", "starting ranks"), ("stage_opened", "default"), ("warned", "slow disk")) == [
        "  starting ranks",
        "stage: default",
        "warning: slow disk",
    ]


def test_the_opening_tells_ranks_goal_and_space():
    assert lines(("opened", opening())) == [
        "  4 rank(s) on 2 node(s); run directory /runs/first",
        "  baseline top1 0.95, goal >= 0.9405",
        "  strategy random: 8 candidates of 3 ops, at most 12 trials",
    ]


def test_a_resumed_job_says_how_much_is_measured():
    assert lines(("opened", opening(n_resumed=7)))[-1] == "  resumed: 7 trials are already measured"


def test_a_space_of_any_size_is_told_in_a_few_characters():
    (line,) = [x for x in lines(("opened", opening(space=small_space(20_000)))) if "strategy" in x]

    assert line == "  strategy random: about 4.0 x 10^6020 candidates of 20000 ops, at most 12 trials"


@pytest.mark.parametrize(
    ("row", "is_best", "line"),
    [
        (trial(0, 0.5), False, "  trial 0   0.5 misses the goal, 1.5 kB, 0.2 s, rank 0"),
        (trial(1, 0.95), True, "* trial 1   0.95 meets the goal, 1.5 kB, 0.2 s, rank 1"),
        (trial(123, 0.5, seconds=75.0), False, "  trial 123 0.5 misses the goal, 1.5 kB, 1 min 15 s, rank 1"),
        (
            trial(2, 0.95, duplicate_of=1, reason="same model as trial 1"),
            False,
            "  trial 2   same model as trial 1",
        ),
        (
            trial(3, reason="eval_fn raised ValueError: no\nmore of it"),
            False,
            "  trial 3   failed: eval_fn raised ValueError: no, 1.5 kB, 0.2 s, rank 1",
        ),
        (
            trial(4, status="crashed", reason="signal SIGSEGV", size_bytes=None),
            False,
            "  trial 4   crashed: signal SIGSEGV, -, 0.2 s, rank 0",
        ),
        (trial(5, status="timeout", reason=""), False, "  trial 5   timeout, 1.5 kB, 0.2 s, rank 1"),
    ],
)
def test_a_trial_is_one_line_and_the_best_so_far_has_a_mark(row, is_best, line):
    assert lines(("committed", row, row if is_best else None)) == [line]


def test_progress_is_told_only_after_a_silence(monkeypatch: pytest.MonkeyPatch):
    calls = (("opened", opening()), ("progress", 3, 2, 65.0))
    assert lines(*calls)[3:] == []
    monkeypatch.setattr(console, "PROGRESS_EVERY_S", 0.0)
    assert lines(*calls)[3:] == ["  ... 3 of at most 12 trials, 2 running, 1 min 05 s"]


def test_the_result_is_a_table_of_what_counts():
    best = trial(1, 0.95)
    rows = (trial(0), best, trial(2, 0.95, duplicate_of=1))

    text = "\n".join(lines(("finished", result(*rows, best=best), "/runs/first/best.onnx")))

    assert text.startswith("goal met (goal)")
    assert "0.95, 3.0 kB" in text
    assert "trial 1: 0.95, 1.5 kB (50% of the float model)" in text
    assert "/runs/first/best.onnx" in text
    assert "2 measured, 1 of them without a metric, 1 repeats" in text
    assert "1 min 15 s on 2 rank(s)" in text


def test_the_result_without_a_best_says_so():
    text = "\n".join(lines(("finished", result(trial(0), stop_reason="max_trials"), "/x/best.onnx")))

    assert text.startswith("goal not met (max_trials)")
    assert "no trial has a metric" in text
    assert "best.onnx" not in text


def test_brackets_and_colons_of_names_are_not_markup():
    best = trial(0, 0.95)
    calls = (
        ("stage_opened", "[bold]conv:warning:[/x]"),
        ("finished", result(best, best=best), "/r[/b]/[red]"),
    )

    text = "\n".join(lines(*calls))

    assert "stage: [bold]conv:warning:[/x]" in text
    assert "/r[/b]/[red]" in text


def test_a_stream_that_cannot_show_a_name_gets_escapes():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    best = trial(0, 0.95)

    text = "\n".join(
        lines(
            ("warned", "größer als 猫, caf\udce9 \x1b[31m"),
            ("finished", result(best, best=best), "/runs/猫/best.onnx"),
            stream=stream,
        )
    )

    assert text.startswith("warning: größer als \\u732b, caf\\udce9 \\x1b[31m")
    assert "/runs/\\u732b/best.onnx" in text


@given(st.text())
def test_any_reason_can_be_told(reason: str):
    row = trial(0, reason=reason)
    lines(("committed", row, None), ("finished", result(row), "x"), stream=io.StringIO())
    text = wording.printable(reason)
    text.encode()


# For programs


def test_every_event_is_one_json_object_a_line():
    best = trial(1, 0.95)

    told = events(
        ("phase", "starting ranks"),
        ("opened", opening(n_resumed=2)),
        ("stage_opened", 'a "stage"\nof two lines'),
        ("committed", trial(0, reason="two\nlines"), None),
        ("committed", best, best),
        ("progress", 2, 1, 1.23456),
        ("warned", "caf\udce9"),
        ("finished", result(trial(0), best, best=best), "/x/best.onnx"),
    )

    assert [e["event"] for e in told] == [
        "phase", "opened", "stage", "trial", "trial", "progress", "warning", "result",
    ]  # fmt: skip
    assert told[1] == {
        "event": "opened", "run_directory": "/runs/first", "ranks": 4, "nodes": 2, "strategy": "random",
        "candidates": 8, "baseline": 0.95, "goal": GOAL.target, "resumed": 2,
    }  # fmt: skip
    assert told[2]["name"] == 'a "stage"\nof two lines'
    assert told[3] == {
        "event": "trial", "trial": 0, "status": "failed", "metric": None, "meets_goal": False,
        "size_bytes": 1500, "seconds": 0.25, "rank": 0, "duplicate_of": None, "best": None,
        "reason": "two\nlines",
    }  # fmt: skip
    assert (told[4]["metric"], told[4]["best"]) == (0.95, 1)
    assert told[5] == {"event": "progress", "trials": 2, "running": 1, "seconds": 1.235}
    assert told[6]["text"] == "caf\udce9"
    assert told[7] == {
        "event": "result",
        "best_path": "/x/best.onnx",
        **json.loads(json.dumps(result(trial(0), best, best=best).to_dict())),
    }


@pytest.mark.parametrize(
    ("n_ops", "candidates"), [(10, 1024), (53, "about 9.0 x 10^15"), (20_000, "about 4.0 x 10^6020")]
)
def test_a_space_that_no_number_holds_is_told_in_words(n_ops, candidates):
    assert events(("opened", opening(space=small_space(n_ops))))[0]["candidates"] == candidates


# Wording


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (59418, "59.4 kB"), (2_500_000, "2.5 MB"),
     (3 * 10**9, "3.00 GB"), (5 * 10**12, "5000.00 GB")],
)  # fmt: skip
def test_sizes_have_a_unit(n_bytes, text):
    assert wording.size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.7, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_durations_have_units(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("objectives", "baseline", "text"),
    [
        ((Objective("loss", False),), (2.0,), "baseline loss 2, goal <= 2.02"),
        (
            (Objective("a", weight=0.5), Objective("b", weight=0.5)),
            (1.0, 3.0),
            "baseline weighted sum 2, goal >= 1.98",
        ),
        (
            (Objective("a"), Objective("b", False)),
            (1.0, 3.0),
            "baseline a 1 (higher is better), b 3 (lower is better); each may lose 0.01 relative; "
            "metric is the worst margin",
        ),
    ],
)
def test_goals_name_direction_and_target(objectives, baseline, text):
    assert wording.goal(Goal(objectives, baseline)) == text
