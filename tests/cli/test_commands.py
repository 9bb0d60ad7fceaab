"""The commands of the command line: what they print, and the code they end with."""

import json
import subprocess
import sys

import onnx
import pytest

import disttune
from disttune.config.job_file import json_schema
from disttune.runtime.run_directory import RunDirectory
from tests.cli.jobs import result, write_job
from tests.models import Graph, value

COMMANDS = (
    "tune",
    "demo",
    "space",
    "schema",
    "check",
    "fusions",
    "report",
    "compare",
    "benchmark",
    "simulate",
)


# Help


def test_help_loads_no_model_library():
    heavy = {"onnx", "onnxruntime", "mpi4py", "optuna"}
    code = (
        "import sys; from disttune.cli import main\n"
        "codes = [main(a) for a in (['--help'], ['tune', '--help'], ['space', '--help'])]\n"
        f"print(codes, sorted({heavy} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[0, 0, 0] []"
    assert ended.stdout.count("Usage: disttune") == 3


def test_version_is_told_and_h_is_help(call):
    assert call("--version")[:2] == (0, f"disttune {disttune.__version__}\n")
    assert call("tune", "-h") == call("tune", "--help")


def test_help_names_every_command(call):
    code, out, err = call("--help")

    assert (code, err) == (0, "")
    assert all(f"  {name} " in out for name in COMMANDS)
    assert "exit-code" not in out  # for launchers alone


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(call, name):
    code, out, _ = call(name, "--help")

    assert code == 0
    assert out.startswith(f"Usage: disttune {name}")


def test_without_arguments_and_without_a_job_file_help_is_printed(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code, out, err = call()

    assert code == 0
    assert "Usage: disttune" in out + err
    assert "tunes ./disttune.toml when there is one" in out + err


# Mistakes in the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tunee"], "No such command 'tunee'. Did you mean 'tune'?"),
        (["tune"], "Missing argument 'job'"),
        (["tune", "job.toml", "--ouput", "x"], "No such option: --ouput"),
        (["tune", "job.toml", "-o"], "Option '-o' requires an argument"),
        (["tune", "job.toml", "more"], "unexpected extra argument"),
        (["--verbose"], "No such option: --verbose"),
        (["tune", "jbo.toml"], "disttune: jbo.toml: no such file. TOML files in .: job.toml."),
        (["tune", "."], "is a folder; give the job file in it"),
        (
            ["tune", "job.toml", "--log-format", "xml"],
            'disttune: --log-format "xml": it is "plain" or "json"',
        ),
        (["demo", "digits"], 'disttune: no example "digits". Nearest: "digits_cnn".'),
        (["tune", "job.toml", "--set", "tuning.max_trails=3"], 'no key "max_trails". Nearest: "max_trials".'),
        (["tune", "job.toml", "--set", "tuning.max_trials=no"], 'must be a whole number; "no" was given'),
        (["tune", "job.toml", "--set", "max_trials"], "has no value; the form is --set tuning.max_trials=50"),
        (["space", "job.toml", "--set", "x.y=1"], 'no section "x"'),
    ],
)
def test_a_mistake_in_the_command_line_is_exit_2_with_one_message(call, job, arguments, message):
    code, out, err = call(*arguments)

    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert {p.name for p in job.parent.iterdir()} == {"model.onnx", "eval.py", "job.toml", "data.npz"}


# tune


def test_tune_reports_and_writes_the_run_directory(call, job, tmp_path):
    code, out, err = call("tune", job, "-o", "run")

    assert (code, err) == (0, "")
    assert "* trial 0   " in out
    assert "goal met (goal)" in out
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "best.onnx", "cache", "job.toml", "journal.jsonl", "result.json", "trials.csv",
    }  # fmt: skip
    assert result(tmp_path / "run")["status"] == "goal_met"


def test_a_goal_that_is_missed_is_exit_3_and_the_best_is_written(call, job, tmp_path):
    code, out, _ = call("tune", job, "-o", "run", "--set", "accuracy.tolerable_loss=-0.99")

    assert code == 3
    assert "goal not met (strategy)" in out
    assert (tmp_path / "run" / "best.onnx").is_file()


def test_settings_override_the_job_file_and_are_written(call, job, tmp_path):
    code, _, _ = call(
        "tune", job, "-o", "run", "--set", "tuning.strategy=exhaustive", "--set", "tuning.max_trials=3",
        "--set", 'tuning.stop_at="budget"',
    )  # fmt: skip

    assert code == 0
    assert result(tmp_path / "run")["trials"] == 3
    assert 'strategy = "exhaustive"' in (tmp_path / "run" / "job.toml").read_text()


def test_the_same_command_again_goes_on_and_fresh_starts_anew(call, job):
    budget = ["--set", "tuning.strategy=exhaustive", "--set", "tuning.stop_at=budget", "--set"]
    call("tune", job, "-o", "run", *budget, "tuning.max_trials=2")

    _, again, _ = call("tune", job, "-o", "run", *budget, "tuning.max_trials=3")
    _, fresh, _ = call("tune", job, "-o", "run", *budget, "tuning.max_trials=3", "--fresh")

    assert "resumed: 2 trials are already measured" in again
    assert "resumed" not in fresh
    assert "3 measured" in again
    assert "3 measured" in fresh


def test_json_lines_parse_and_end_with_the_result(call, job, tmp_path):
    code, out, err = call("tune", job, "-o", "run", "--log-format", "json")

    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert {"phase", "opened", "stage", "trial", "result"} <= {e["event"] for e in events}
    assert events[-1]["event"] == "result"
    assert result(tmp_path / "run").items() <= events[-1].items()


def test_quiet_prints_warnings_alone(call, job):
    code, out, err = call("tune", job, "-o", "run", "--quiet", "--set", "calibration.samples=500")

    assert (code, out) == (0, "")
    assert err == 'warning: calibration.loader = "eval.py:calibration": 32 samples, 500 were asked for\n'


def test_a_run_directory_with_brackets_in_its_name_is_fine(call, job, tmp_path):
    code, out, _ = call("tune", job, "-o", "run [/final] :x:")

    assert code == 0
    assert f"{tmp_path}/run [/final] :x:/best.onnx" in out


def test_without_arguments_the_job_file_of_the_folder_is_tuned(call, job, tmp_path):
    job.rename(tmp_path / "disttune.toml")

    code, out, _ = call()

    assert code == 0
    assert "goal met" in out
    assert (tmp_path / "disttune_run" / "best.onnx").is_file()


def test_paths_count_from_the_job_files_folder(call, tmp_path, monkeypatch):
    write_job(tmp_path / "deep" / "job")
    monkeypatch.chdir(tmp_path)

    assert call("tune", "deep/job/job.toml", "-o", "run")[0] == 0


# demo


def test_demo_tunes_the_bundled_model_anew_unless_resumed(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = ["--set", "runtime.isolation=none"]
    first = call("demo", *here)
    anew = call("demo", *here)
    again = call("demo", *here, "--resume")

    assert [code for code, _, _ in (first, anew, again)] == [0, 0, 0]
    assert "  trial 2   " in first[1]  # the default misses the goal: there is something to find
    assert "goal met (goal)" in first[1]
    assert "resumed" not in anew[1]
    assert "resumed: 6 trials" in again[1]
    assert [p.name for p in tmp_path.iterdir()] == ["disttune_run_digits_cnn"]


# schema and space


def test_schema_prints_the_json_schema(call):
    code, out, _ = call("schema")

    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(json_schema()))


def test_space_prints_a_table_of_op_types_and_the_number_of_candidates(call, job):
    code, out, err = call("space", job)

    assert (code, err) == (0, "")
    (row,) = [line for line in out.splitlines() if "Gemm" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "Gemm", "2", "8",
        "static: activation uint8 asymmetric per tensor [minmax, percentile 99.999, entropy, mse], "
        "weight int8 symmetric [per channel, per tensor] minmax",
    ]  # fmt: skip
    assert "recipe first_conv_or_matmul_quantization: open, on by default; off, it leaves fc1 in float" in out
    assert "64 candidates op by op, 80 with open recipes" in out


def test_space_warns_of_what_the_target_lacks(call, job):
    job.write_text(job.read_text() + '[quantization.op_types.Gemm]\nweight = {dtype = ["int4", "int8"]}\n')

    code, out, _ = call("space", job)

    assert code == 0
    assert "warning: " in out
    assert "int4" in out


def test_a_space_of_10_to_the_30_is_counted_at_once(call, job):
    graph = Graph()
    h = "x"
    for i in range(60):
        h = graph.node("MatMul", h, graph.weight(f"w{i}", 6, 6), name=f"m{i}", output="y" if i == 59 else "")
    model = graph.model([value("x", ["N", 6])], [value("y", ["N", 6])])
    onnx.save(model, job.parent / "model.onnx")

    code, out, _ = call("space", job)

    assert code == 0
    assert "about 1.5 x 10^54 candidates op by op" in out


# exit-code, for launchers


def test_the_code_of_a_killed_mpirun_is_told_from_the_journal(call, job, tmp_path):
    call("tune", job, "-o", "run")
    command = ("--", "tune", "job.toml", "-o", "run")
    run = RunDirectory(tmp_path / "run")
    assert call("exit-code", "137", *command)[0] == 137  # rank 0 ended by itself: the code is its own

    run.lock_file.write_text("left by a kill")
    assert call("exit-code", "137", *command)[0] == 0  # it had finished

    records = run.journal_file.read_bytes().splitlines(keepends=True)
    run.journal_file.write_bytes(b"".join(records[:-1]))
    assert call("exit-code", "137", *command)[0] == 75
    assert (
        call("exit-code", "138", *command)[0] == 75
    )  # what mpirun says with ULFM when all ranks were killed
    assert call("exit-code", "1", "--", "tune", "job.toml", "--output=run")[0] == 75
    assert call("exit-code", "1", "--", "tune", "job.toml")[0] == 1  # another directory


def test_code_of_an_mpirun_that_was_asked_to_end_is_told_from_the_journal(call, job):
    command = ("--", "tune", "job.toml", "-o", "run")
    assert call("exit-code", "138", *command)[0] == 75  # it never came to ranks

    call("tune", job, "-o", "run")
    assert call("exit-code", "138", *command)[0] == 0
