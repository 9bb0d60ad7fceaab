"""`report`, `compare`, `simulate` and `benchmark` on runs of the bundled demo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from disttune.cli import main
from tests.distributed.launch import disttune, find_mpirun, run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that meets the goal, and one that had one trial only and misses it."""
    folder = tmp_path_factory.mktemp("runs")
    codes = [
        run(disttune("demo", "-o", folder / name, *options)).code
        for name, options in (("whole", ()), ("short", ("--set", "tuning.max_trials=1")))
    ]
    assert codes == [0, 3]
    return folder / "whole", folder / "short"


def test_report_prints_or_writes_each_format(runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, start in (
        ("markdown", "## disttune: whole"),
        ("junit", "<?xml"),
        ("json", "{"),
        ("csv", "trial,"),
    ):
        assert main(["report", str(runs[0]), "--format", name]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(start)
        assert main(["report", str(runs[0]), "--format", name, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text() == printed


def test_compare_ends_with_4_when_the_second_run_is_worse(runs, capsys: pytest.CaptureFixture[str]):
    whole, short = map(str, runs)
    assert main(["compare", whole, whole, "--max-size-growth", "0"]) == 0
    assert main(["compare", short, whole]) == 0
    capsys.readouterr()
    assert main(["compare", whole, short, "--format", "json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in found["lines"] if line["regressed"]] == ["goal", "metric"]
    assert main(["compare", whole, short, "--format", "markdown"]) == 4
    assert "| REGRESSION |" in capsys.readouterr().out


def test_simulate_shows_a_line_for_each_number_of_ranks(runs, capsys: pytest.CaptureFixture[str]):
    journal = runs[0] / "journal.jsonl"
    for recorded in (runs[0], journal):
        assert main(["simulate", str(recorded), "--ranks", "1,64", "--mtbf-hours", "1000"]) == 0
        printed = capsys.readouterr().out
        lines = [line.split() for line in printed.splitlines()]
        assert [cells[0] for cells in lines if cells and cells[0].isdigit()] == ["1", "64"]
        assert "failures" in printed
    part = runs[1] / "part.jsonl"
    part.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert main(["simulate", str(part)]) == 0
    assert "has not come to its end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nothing"], "nothing: no such run directory"),
        (["report", "RUN", "--format", "html5"], "format"),
        (["report", "RUN", "-o", "/proc/none"], "/proc/none: cannot be written"),
        (["compare", "RUN", "RUN", "--max-size-growth", "much"], 'is a share such as 0.05 or 5%, or "none"'),
        (["compare", "RUN", "RUN", "--max-metric-loss", "-1%"], "a share is 0 or more"),
        (["compare", "RUN", "RUN", "--format", "csv"], "All: json, markdown, table"),
        (["simulate", "nothing"], "nothing/journal.jsonl: the journal cannot be read"),
        (["simulate", "RUN/result.json"], "this is not how a journal begins"),
        (["simulate", "RUN", "--ranks", "1,1000000"], "none above 100,000"),
        (["simulate", "RUN", "--mtbf-hours", "0"], "a time above 0"),
        (["simulate", "RUN", "--message-us", "nan"], "a time of at least 0"),
        (["simulate", "RUN", "--ranks-per-node", "0"], "at least 1"),
        (["benchmark", "job.toml", "--ranks", "2,x"], "numbers of at least 1 with commas between"),
        (["benchmark", "job.toml", "--mpirun", "nompirun"], "no mpirun nompirun found"),
    ],
)
def test_a_mistake_is_one_message_and_code_2(runs, arguments, message, capsys: pytest.CaptureFixture[str]):
    given = [a.replace("RUN", str(runs[0])) for a in arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err


def test_benchmark_runs_the_job_on_each_number_of_ranks(tmp_path: Path):
    find_mpirun()
    job = Path(__file__).parents[2] / "disttune/examples/digits_cnn/job.toml"
    options = ["--ranks", "1,2", "-o", "runs", "--set", "tuning.max_trials=2", "--json", "entries.json"]
    command = [sys.executable, "-m", "disttune", "benchmark", str(job), *options]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"ranks-1", "ranks-2"}
    entries = json.loads((tmp_path / "entries.json").read_text())
    assert [(e["name"], e["unit"]) for e in entries] == [
        ("digits_cnn: time on 1 rank(s)", "s"),
        ("digits_cnn: time on 2 rank(s)", "s"),
        ("digits_cnn: size of the best model", "bytes"),
    ]
    assert "efficiency" in ended.stdout
