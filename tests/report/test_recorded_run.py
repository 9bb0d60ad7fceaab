import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from disttune.config.errors import RunDirectoryError
from disttune.report.comparison import Limits, compare, regressions
from disttune.report.files import write_result
from disttune.report.formats import FORMATS
from disttune.report.recorded_run import RecordedRun, read_run
from disttune.report.scaling import Measured, as_benchmark_entries, differing
from disttune.strategy.tuning import Sensitivity
from tests.report.results import result, trial


def written(folder: Path, *trials, best=None, **changes) -> Path:
    folder.mkdir()
    write_result(result(*trials, best=best, **changes), folder / "result.json", folder / "trials.csv")
    return folder


def run(folder: Path, metric: float = 0.95, **changes) -> RecordedRun:
    best = trial(0, metric, **{k: changes.pop(k) for k in ("size_bytes",) if k in changes})
    return read_run(written(folder, best, trial(1), best=best, **changes))


def changed(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_run_is_read_as_it_was_written(tmp_path: Path):
    found = run(tmp_path / "run")
    assert (found.goal_met, found.metric, found.size_bytes, found.seconds) == (True, 0.95, 1500, 75.0)
    assert [(row["trial"], row["status"]) for row in found.rows] == [("0", "ok"), ("1", "failed")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "result.json").unlink(), "this is no run directory"),
        (lambda p: (p / "result.json").rename(p / "journal.jsonl"), "has not ended. Run its command again"),
        (lambda p: (p / "result.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "result.json").write_text("[1]"), "no result of schema 1"),
        (lambda p: changed(p / "result.json", schema=7), "no result of schema 1"),
        (lambda p: changed(p / "result.json", status="fine"), "its status is 'fine'"),
        (lambda p: changed(p / "result.json", goal="0.9"), "\"goal\" is '0.9', not a number"),
        (lambda p: changed(p / "result.json", stop_reason=None), '"stop_reason" is None, not a text'),
        (lambda p: changed(p / "result.json", best=[1]), 'its "best" is no trial'),
        (lambda p: changed(p / "result.json", best={"trial": 1}), 'its "best" is no trial'),
        (lambda p: changed(p / "result.json", baseline={}), 'its "baseline" has no metric'),
        (
            lambda p: changed(p / "result.json", baseline={"metric": 1, "size_bytes": "1 kB"}),
            'its "baseline" has a size that is no number',
        ),
        (lambda p: (p / "trials.csv").write_text("trial\n1\n"), "it has no column stage"),
        (lambda p: (p / "trials.csv").write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_what_is_no_finished_run_is_refused_with_the_cause(tmp_path: Path, spoil, message: str):
    path = written(tmp_path / "run", trial(0, 0.95), best=trial(0, 0.95))
    spoil(path)
    with pytest.raises(RunDirectoryError, match=message):
        read_run(path)


def test_a_missing_directory_is_named(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="nothing: no such run directory"):
        read_run(tmp_path / "nothing")


def test_markdown_keeps_the_table_whatever_a_reason_holds(tmp_path: Path):
    bad = trial(1, reason="a | b\n# c")
    text = FORMATS["markdown"](read_run(written(tmp_path / "run", trial(0, 0.95), bad, best=trial(0, 0.95))))
    rows = [line for line in text.splitlines() if line.startswith("| 1 ")]
    assert rows == ["| 1 | all | failed |  | false | 1500 | 0.250 | a \\| b # c |"]
    assert "| status | goal met (goal) |" in text


@pytest.mark.parametrize("met", [True, False])
def test_junit_fails_exactly_when_the_goal_is_missed(tmp_path: Path, met: bool):
    text = FORMATS["junit"](run(tmp_path / "run", 0.95 if met else 0.5))
    suite = ElementTree.fromstring(text)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", str(int(not met)), "1")
    assert len(suite.findall("testcase/failure")) == int(not met)
    assert [case.get("message") for case in suite.iter("skipped")] == ["failed: raised"]


def test_csv_and_json_hold_the_trial_table(tmp_path: Path):
    found = run(tmp_path / "run")
    assert FORMATS["csv"](found) == (tmp_path / "run" / "trials.csv").read_text()
    parsed = json.loads(FORMATS["json"](found))
    assert parsed["table"] == list(csv.DictReader(io.StringIO(FORMATS["csv"](found))))
    assert parsed["goal"] == 0.9


@pytest.mark.parametrize(
    ("after", "limits", "names"),
    [
        ({}, Limits(), []),
        ({"metric": 0.94}, Limits(), ["metric"]),
        ({"metric": 0.94}, Limits(metric_loss=0.02), []),
        ({"metric": 0.94}, Limits(metric_loss=None), []),
        ({"metric": 0.99}, Limits(), []),
        ({"metric": 0.5}, Limits(metric_loss=None), ["goal"]),
        ({"size_bytes": 1600}, Limits(size_growth=0.05), ["size"]),
        ({"size_bytes": 1600}, Limits(size_growth=0.07), []),
        ({"seconds": 100.0}, Limits(time_growth=0.3), ["time"]),
        ({"seconds": 100.0}, Limits(), []),
    ],
)
def test_a_regression_is_what_is_worse_than_its_limit(tmp_path: Path, after, limits: Limits, names):
    lines = compare(run(tmp_path / "a"), run(tmp_path / "b", **after), limits)
    assert [line.name for line in regressions(lines)] == names


def test_with_lower_is_better_more_is_worse(tmp_path: Path):
    best = {"higher_is_better": False, "goal": 6.0, "status": "goal_met"}
    runs = [run(tmp_path / n, m, **best) for n, m in (("a", 5.0), ("b", 5.5))]
    assert [x.name for x in regressions(compare(*runs, Limits()))] == ["metric"]
    assert regressions(compare(*runs[::-1], Limits())) == []


def test_a_metric_of_zero_has_no_share_to_lose(tmp_path: Path):
    runs = [run(tmp_path / n, m, status="goal_met") for n, m in (("a", 0.0), ("b", -0.1))]
    (line,) = regressions(compare(*runs, Limits(metric_loss=0.5)))
    assert (line.name, line.change) == ("metric", None)


def test_a_run_without_any_metric_regresses_against_one_with(tmp_path: Path):
    nothing = read_run(written(tmp_path / "b", trial(0)))
    assert [x.name for x in regressions(compare(run(tmp_path / "a"), nothing, Limits()))] == [
        "goal",
        "metric",
    ]


def test_speed_up_and_efficiency_are_against_the_first(tmp_path: Path):
    one, four = (Measured(n, s, run(tmp_path / str(n))) for n, s in ((1, 10.0), (4, 4.0)))
    assert (four.speed_up(one), four.efficiency(one)) == (2.5, 0.625)
    assert as_benchmark_entries("job", [one, four]) == [
        {"name": "job: time on 1 rank(s)", "unit": "s", "value": 10.0},
        {"name": "job: time on 4 rank(s)", "unit": "s", "value": 4.0},
        {"name": "job: size of the best model", "unit": "bytes", "value": 1500},
    ]


def test_tables_differ_by_metrics_not_by_ranks_and_seconds(tmp_path: Path):
    first = Measured(1, 1.0, run(tmp_path / "a"))
    moved = trial(0, 0.95, rank=1, seconds=9.0)
    same = Measured(2, 1.0, read_run(written(tmp_path / "b", moved, trial(1, rank=0), best=moved)))
    other = Measured(4, 1.0, run(tmp_path / "c", 0.951))
    assert differing([first, same, other]) == [other]


def test_markdown_shows_the_pareto_front_and_sensitivities_worst_first(tmp_path: Path):
    small, good = trial(0, 0.91, size_bytes=900), trial(1, 0.95)
    measured = (Sensitivity(("conv_1", "relu_1"), "W4A8", 0.25), Sensitivity(("conv_0",), "W8A8", 0.001))
    run = written(tmp_path / "run", small, good, best=good, pareto=(0, 1), sensitivity=measured)
    text = FORMATS["markdown"](read_run(run))
    assert "| 0 | 0.91 | true | 900 |\n| 1 | 0.95 | true | 1500 |" in text
    assert "| conv_1, relu_1 | W4A8 | 0.25 |\n| conv_0 | W8A8 | 0.001 |" in text


def test_markdown_of_a_run_without_them_says_nothing_of_them(tmp_path: Path):
    text = FORMATS["markdown"](read_run(written(tmp_path / "run", trial(0, 0.95), pareto=(0,))))
    assert "Pareto" not in text
    assert "Sensitivity" not in text
