"""result.json and trials.csv: names and content are a promise to those who read them with programs."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import RunDirectoryError
from disttune.report.files import trials_csv, write_result
from disttune.strategy.trial import Latency, Trial
from tests.report.results import SPACE, result, trial

COLUMNS = ["trial", "stage", "digest", "model_digest", "duplicate_of", "status", "metric", "meets_goal",
           "size_bytes", "seconds", "rank", "reason", "latency_ratio", "latency_spread"]  # fmt: skip
RESULT_KEYS = {"schema", "status", "stop_reason", "baseline", "goal", "best", "trials", "probes", "seconds",
               "ranks", "versions"}  # fmt: skip
BEST_KEYS = {"trial", "digest", "model_digest", "metric", "size_bytes", "candidate"}


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def rows(*trials: Trial, evaluators: tuple[str, ...] = ("accuracy",)) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(trials_csv(trials, evaluators))))


# trials.csv


def test_columns_are_those_of_the_design_and_one_for_each_evaluator():
    assert table(trials_csv([], ["top1", "loss"])) == [[*COLUMNS, "top1", "loss"]]


def test_a_measured_trial_fills_every_column():
    row = trial(3, 0.1 + 0.2, values=(0.1 + 0.2, 1e-17), stage="op-wise product", seconds=1.23456, rank=7)

    assert table(trials_csv([row], ["a", "b"]))[1] == [
        "3", "op-wise product", SPACE[3].digest, f"{3:032x}", "", "ok", "0.30000000000000004", "false",
        "1500", "1.235", "7", "", "", "", "0.30000000000000004", "1e-17",
    ]  # fmt: skip


def test_metrics_read_back_bit_for_bit():
    values = [0.1 + 0.2, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308]

    read = [float(r["metric"]) for r in rows(*(trial(i, v) for i, v in enumerate(values)))]

    assert [v.hex() for v in read] == [v.hex() for v in values]


def test_a_trial_that_could_not_be_built_leaves_cells_empty():
    row = trial(0, model_digest=None, size_bytes=None, n_quantized=None, reason="no such op")

    (read,) = rows(row)

    assert {k for k, v in read.items() if v == ""} == {
        "model_digest", "duplicate_of", "metric", "size_bytes", "accuracy", "latency_ratio", "latency_spread",
    }  # fmt: skip
    assert (read["status"], read["reason"], read["meets_goal"]) == ("failed", "no such op", "false")


def test_a_repeat_names_the_first():
    first = trial(0, 0.95)
    repeat = trial(1, 0.95, duplicate_of=0, seconds=0.0, reason="same model as trial 0")

    assert [(r["duplicate_of"], r["meets_goal"], r["metric"]) for r in rows(first, repeat)] == [
        ("", "true", "0.95"),
        ("0", "true", "0.95"),
    ]


@pytest.mark.parametrize(
    ("reason", "written"),
    [
        ("a, b; c", "a, b; c"),
        ('say "no"', 'say "no"'),
        ("first line\nsecond line\r\n\tthird", "first line second line third"),
        ("null \0 and bell \a and \x1b[31mred", "null \\x00 and bell \\x07 and \\x1b[31mred"),
        ("caf\udce9.npy", "caf\\udce9.npy"),  # a file name that is no UTF-8
        ("größer als 猫", "größer als 猫"),
        ("=1+1", "=1+1"),
        ("", ""),
    ],
)
def test_an_awkward_reason_is_one_line_in_its_cell(reason: str, written: str):
    text = trials_csv([trial(0, reason=reason), trial(1, 0.5)], ["accuracy"])

    assert [len(r) for r in table(text)] == [15, 15, 15]
    assert table(text)[1][11] == written
    assert text.count("\n") == 3
    text.encode()


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_makes_a_table_that_reads_back(stage: str, reason: str):
    text = trials_csv([trial(0, stage=stage, reason=reason)], ["accuracy"])

    assert [len(r) for r in table(text)] == [15, 15]
    assert len(text.encode().decode().split("\n")) == 3


def test_a_latency_has_columns_of_its_own():
    measured = trial(0, 0.95, latency=Latency(0.5, 0.125, 1.0, 2.0))
    (header, first, second) = table(trials_csv([measured, trial(1, 0.95)], ["accuracy"]))

    assert header[12:14] == ["latency_ratio", "latency_spread"]
    assert (first[12:14], second[12:14]) == (["0.5", "0.125"], ["", ""])


@pytest.mark.parametrize(
    ("evaluators", "columns"),
    [
        (("status",), ["status_value"]),
        (("status", "status_value"), ["status_value", "status_value_value"]),
        (("top1", "metric", "loss"), ["top1", "metric_value", "loss"]),
        (("a,b", "c\nd"), ["a,b", "c d"]),
    ],
)
def test_an_evaluator_named_like_a_column_gets_one_of_its_own(evaluators, columns):
    row = trial(0, 0.5, values=tuple(float(i) for i in range(len(evaluators))))

    (header, cells) = table(trials_csv([row], evaluators))

    assert header == [*COLUMNS, *columns]
    assert cells[14:] == [repr(float(i)) for i in range(len(evaluators))]
    assert cells[5] == "ok"


# result.json


def written(folder: Path, *trials: Trial, best: Trial | None = None) -> dict[str, object]:
    write_result(result(*trials, best=best), folder / "result.json", folder / "trials.csv")
    return json.loads((folder / "result.json").read_text())


def test_result_has_the_keys_of_the_design(tmp_path: Path):
    best = trial(1, 0.95)

    data = written(tmp_path, trial(0), best, trial(2, 0.95, duplicate_of=1), best=best)

    assert data.keys() >= RESULT_KEYS
    assert data["best"].keys() >= BEST_KEYS
    assert {k: data[k] for k in ("schema", "status", "stop_reason", "goal", "trials", "probes", "ranks")} == {
        "schema": 1, "status": "goal_met", "stop_reason": "goal", "goal": 0.9, "trials": 2, "probes": 0,
        "ranks": 2,
    }  # fmt: skip
    assert data["baseline"]["metric"] == 0.95
    assert (data["best"]["trial"], data["best"]["digest"]) == (1, SPACE[1].digest)
    assert data["best"]["candidate"] == SPACE[1].to_dict()


def test_the_latency_of_the_best_is_in_the_result(tmp_path: Path):
    best = trial(0, 0.95, latency=Latency(0.5, 0.125, 1.0, 2.0))

    assert written(tmp_path, best, best=best)["best"]["latency"] == {
        "ratio": 0.5, "spread": 0.125, "milliseconds": 1.0, "float_milliseconds": 2.0,
    }  # fmt: skip


def test_without_a_best_trial_best_is_null(tmp_path: Path):
    data = written(tmp_path, trial(0))

    assert (data["best"], data["status"]) == (None, "goal_not_met")


@pytest.mark.parametrize(("status", "code"), [("goal_met", 0), ("goal_not_met", 3), ("interrupted", 75)])
def test_the_exit_code_follows_the_status(status: str, code: int):
    assert result(status=status).exit_code == code


def test_the_table_is_written_beside_it(tmp_path: Path):
    written(tmp_path, trial(0, 0.5), trial(1))

    assert (tmp_path / "trials.csv").read_text() == trials_csv([trial(0, 0.5), trial(1)], ["accuracy"])


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path):
    with pytest.raises(
        RunDirectoryError, match=r"result\.json: cannot be written: No such file or directory"
    ):
        written(tmp_path / "gone")
