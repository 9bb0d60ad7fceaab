"""Wrong input through the command line: exit 2, one message with cause and mend, and nothing in the way.

Each mistake spoils one thing of a job that works; once it is mended, the same command must succeed in the
same run directory.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from disttune.cli import main
from tests.cli.jobs import write_job
from tests.cli.spoils import (
    EVALUATORS,
    ROWS,
    Spoil,
    add,
    both,
    calibration,
    change,
    content,
    cut_short,
    evaluation,
    external_data_missing,
    function,
    half,
    loader,
    model,
    nothing_to_quantize,
    quantized,
    without,
)
from tests.distributed.launch import mpirun, run

LABELS = np.zeros(4, np.int64)
NAN = np.array([[0] * 6, [np.nan] * 6], np.float32)
OBJECTS = np.array([{}] * 4)

MISTAKES: dict[str, tuple[Spoil, str, str]] = {  # what spoils the job, the cause, the mend
    "model missing": (without("model.onnx"), "/model.onnx does not exist", "Check model.path"),
    "model not ONNX": (
        content("model.onnx", b"hello, world"),
        "is not an ONNX file",
        "Export the network as ONNX",
    ),
    "model empty": (content("model.onnx", b""), "is empty (0 bytes)", "Export or copy it again"),
    "model a folder": (change('"model.onnx"', '"."'), "is a directory", "Give the .onnx file itself"),
    "external data missing": (external_data_missing, "w.bin is missing", "Copy it beside the model"),
    "model quantized": (model(quantized), "is already quantized", "Give the float32 model"),
    "model fp16": (model(half), 'has float16 weights ("w1")', "Export it as float32"),
    "nothing to quantize": (
        model(nothing_to_quantize),
        "no quantizable op: ",
        "the model has Relu. With another approach or placement",
    ),
    "loader: name": (loader("wrong_name"), 'feed 0: the model has no input "X"', "All: x"),
    "loader: shape": (
        loader("wrong_shape"),
        "found shape (4, 7), expected (N, 6)",
        "the model fixes it to 6",
    ),
    "loader: dtype": (loader("wrong_dtype"), "found type int64, expected float32", "convert with .astype"),
    "loader: NaN": (loader("with_nan"), 'feed 1, input "x": NaN in row 1 (sample 5', "clean the data"),
    "loader: empty": (loader("empty"), "it gave no feed", "at least one is needed"),
    "loader: None": (loader("nothing"), "it returned None", "it must yield feeds"),
    "loader: one feed": (
        loader("no_feed"),
        "found type dict, expected feeds to iterate over",
        "yield each feed",
    ),
    "loader: raises": (
        loader("failing"),
        "RuntimeError: the disk is gone (eval.py, line",
        "instead of giving feed 1",
    ),
    "loader: missing": (loader("calibraton"), 'no function "calibraton"', 'Nearest: "calibration"'),
    "data: name": (calibration(X=ROWS), 'no input, output or target "X"', "x, y."),
    "data: shape": (
        calibration(x=ROWS[:, :5]),
        "found shape (4, 5), expected (N, 6)",
        "the model fixes it to 6",
    ),
    "data: dtype": (calibration(x=LABELS[:, None].repeat(6, 1)), "found type int64", "convert with .astype"),
    "data: NaN": (calibration(x=NAN), "NaN in row 1", "clean the data"),
    "data: empty": (calibration(x=ROWS[:0]), "found shape (0, 6)", "leave empty feeds out"),
    "data: no arrays": (calibration(), 'input "x" is missing', 'expected "x" float32 (N, 6)'),
    "data: pickled": (calibration(x=OBJECTS), "holds pickled Python objects", "save plain numeric arrays"),
    "data: no npz": (both(calibration(), content("data.npz", b"1,2")), "is no .npz or .npy", "numpy.savez"),
    "data: cut short": (cut_short, "cannot be read", "numpy.savez"),
    "data: missing": (both(calibration(), without("data.npz")), 'has no file "data.npz"', "There is none"),
    "evaluation: name": (evaluation(X=ROWS, labels=LABELS), 'target "X"', "All: label, labels"),
    "evaluation: labels missing": (evaluation(x=ROWS), "needs labels", 'add an array "labels"'),
    "evaluation: too few labels": (
        evaluation(x=ROWS, labels=LABELS[:3]),
        "found shape (3,)",
        "expected 4 rows",
    ),
    "evaluation: labels of a wrong type": (
        evaluation(x=ROWS, labels=ROWS[:, 0]),
        "found type float32",
        "expected class numbers of an integer type",
    ),
    "evaluation: labels of a wrong shape": (
        evaluation(x=ROWS, labels=np.zeros((4, 2, 2), np.int64)),
        "found (4, 2, 2)",
        "needs labels of shape (4,)",
    ),
    "evaluation: NaN": (evaluation(x=NAN, labels=LABELS[:2]), "NaN in row 1", "clean the data"),
    "evaluation: empty": (
        evaluation(x=ROWS[:0], labels=LABELS[:0]),
        "found shape (0, 6)",
        "leave empty feeds out",
    ),
    "evaluation: pickled": (
        evaluation(x=ROWS, labels=OBJECTS),
        "holds pickled Python objects",
        "numpy.savez",
    ),
    "evaluation: missing": (
        both(evaluation(), without("data.npz")),
        'has no file "data.npz"',
        "There is none",
    ),
    "function: missing": (function("evalute"), 'no function "evalute"', 'Nearest: "evaluate"'),
    "function: file missing": (change("eval.py:ev", "evl.py:ev"), 'no file "evl.py"', 'Nearest: "eval.py"'),
    "function: no function": (function("number"), "is of type int", "not a function"),
    "function: two arguments": (
        function("two"),
        "signature is (model, data)",
        "give the other parameters defaults",
    ),
    "function: syntax": (content("eval.py", b"def f(:\n"), "SyntaxError", "(eval.py, line 1)"),
    "function: import": (
        content("eval.py", b"import not_there\n"),
        "No module named 'not_there'",
        "install not_there",
    ),
    "baseline: raises": (
        function("raises"),
        'eval_fn "raises" raised ValueError: no such thing',
        "(eval.py, line",
    ),
    "baseline: None": (
        function("none"),
        "returned None; expected one finite number",
        'is a "return" missing?',
    ),
    "baseline: text": (function("text"), "returned type str ('0.5')", "return the number itself"),
    "baseline: NaN": (function("nan"), "returned nan; expected a finite number", "division by zero?"),
    "baseline: sys.exit": (function("leaves"), "raised SystemExit: 3", "(eval.py, line"),
    "baseline: late import": (function("late"), "No module named 'not_there'", "(eval.py, line"),
    "baseline: given twice": (
        change('evaluate"', 'evaluate"\nbaseline = [1.0, 2.0]'),
        "2 given for 1",
        "one number for each evaluator",
    ),
    "strategy": (add('[tuning]\nstrategy = "exhaustve"'), 'no strategy "exhaustve"', 'Nearest: "exhaustive"'),
    "strategy: file": (add('[tuning]\nstrategy = "my.py:My"'), "no file", "the form is file.py:Class"),
    "strategy: keyword": (
        add("[tuning]\nstrategy_kwargs = {n = 1}"),
        'no keyword "n"',
        "All: exact, presets",
    ),
    "strategy: configs": (
        add('[tuning]\nstrategy = "sequential"\nstrategy_kwargs = {configs = 3}'),
        "strategy sequential refuses them",
        "'int' object is not iterable",
    ),
    "strategy: no configs": (
        add('[tuning]\nstrategy = "sequential"'),
        "needs configs",
        'give it in "tuning.strategy_kwargs"',
    ),
    "strategy: node": (
        add(
            '[tuning]\nstrategy = "sequential"\n[[tuning.strategy_kwargs.configs]]\nalgorithm = "static"\n'
            'nodes_to_exclude = ["fc3"]'
        ),
        'the model has no node "fc3"',
        'Nearest: "fc2"',
    ),
    "objective": (
        add('[tuning]\nobjective = "latncy"'),
        'no objective "latncy"',
        'Nearest: "latency"',
    ),
    "approach of another target": (
        both(
            change('model.onnx"', 'model.onnx"\ntarget = "qnn"'),
            add('[quantization]\napproach = "weight_only"'),
        ),
        'placement "all" quantizes nothing; the model has',
        "With another approach",
    ),
    "engine": (add('[quantization]\nengine = "fsat"'), 'no engine "fsat"', "All: fast, reference"),
    "format": (
        add('[quantization]\nformat = "qoperator"'),
        '"qoperator" is for approach "dynamic"; the approach is "static"',
        "Leave it out",
    ),
    "approach": (
        add('[quantization]\napproach = "weights_only"'),
        'no approach "weights_only"',
        'Nearest: "weight_only"',
    ),
    "op name": (
        add('[quantization.op_names.fc3]\nweight.dtype = "float32"'),
        'no op name "fc3"',
        'Nearest: "fc2"',
    ),
    "metric": (
        both(evaluation(x=ROWS, labels=LABELS), change('"top1"', '"top2"')),
        'no metric "top2"',
        'Nearest: "top1"',
    ),
    "target": (change("[calib", 'target = "ort-gpu"\n[calib'), 'no target "ort-gpu"', 'Nearest: "ort-cpu"'),
    "provider": (
        change("[calib", 'providers = ["CUDAExecutionProvide"]\n[calib'),
        "this onnxruntime has no execution provider",
        "CPUExecutionProvider",
    ),
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job that works; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write_job(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message that `tune job.toml -o run` ends with; nothing else is said to be wrong."""
    capsys.readouterr()
    code = main(["tune", "job.toml", "-o", "run", *arguments])
    out, err = capsys.readouterr()
    assert code == 2, (code, out, err)
    assert err.startswith("disttune: ")
    assert err.count("disttune: ") == 1
    assert "Traceback" not in out + err
    return err


@pytest.mark.parametrize(("spoil", "cause", "mended_by"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_cause_and_mend_and_can_be_corrected(job, capsys, spoil, cause, mended_by):
    (job / "eval.py").write_text((job / "eval.py").read_text() + EVALUATORS)
    spoil(job)

    message = told(capsys)

    assert cause in message
    assert mended_by in message
    write_job(job)
    assert main(["tune", "job.toml", "-o", "run"]) == 0


IN_A_PROCESS = ("--set", "runtime.isolation=process")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            function("crashes"),
            "disttune: the evaluation of the float model failed: the trial process ended by signal SIGSEGV",
        ),
        (
            function("exits"),
            "disttune: the evaluation of the float model failed: the trial process ended itself "
            "with exit code 7",
        ),
        (loader("crashes"), "disttune: loading the job failed: the trial process ended by signal SIGSEGV"),
    ],
    ids=["segfault at baseline", "exit at baseline", "segfault of the loader"],
)
def test_an_evaluation_that_ends_its_process_is_told(job, capsys, spoil, message):
    (job / "eval.py").write_text((job / "eval.py").read_text() + EVALUATORS)
    spoil(job)

    told_so = told(capsys, *IN_A_PROCESS)
    assert told_so.startswith(message)
    assert "It runs your code: call that outside of disttune to see why" in told_so
    assert ("eval.py" in told_so) == ("SIGSEGV" in message), "a segfault is told with its line"

    write_job(job)
    assert main(["tune", "job.toml", "-o", "run"]) == 0


def test_a_trial_process_tells_the_same_as_this_one(job, capsys):
    function("raises")(job)
    (job / "eval.py").write_text((job / "eval.py").read_text() + EVALUATORS)

    assert told(capsys, *IN_A_PROCESS) == told(capsys)


# The run directory


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda run: run.write_text("notes"), "run: this is a file; give a directory"),
        (lambda run: run.mkdir() or (run / "best.onnx").write_text("mine"), "best.onnx would be overwritten"),
        (
            lambda run: run.mkdir() or (run / "journal.jsonl").write_text("mine"),
            "this is no journal of disttune",
        ),
    ],
    ids=["a file", "another's model", "another's journal"],
)
def test_a_run_directory_that_cannot_be_used_is_named_and_left_alone(job, capsys, make, cause):
    make(job / "run")
    before = {p: p.read_bytes() for p in job.rglob("*") if p.is_file()}

    assert cause in told(capsys)

    assert {p: p.read_bytes() for p in job.rglob("*") if p.is_file()} == before


def test_a_run_directory_that_cannot_be_made_is_told(job, capsys):
    message = told(capsys, "-o", "/proc/run")

    assert message.startswith("disttune: /proc/run: the run directory cannot be made: ")
    assert message.endswith("Give another run directory.\n")


# Under mpirun


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("job.toml",), "model.onnx does not exist"),
        (("no.toml",), "disttune: no.toml: no such file"),
    ],
    ids=["after the ranks have started", "before"],
)
def test_all_ranks_end_and_the_message_is_printed_once(job, arguments, message):
    (job / "model.onnx").unlink()

    ended = run(mpirun(2, "tune", *arguments, "-o", "run"), cwd=job)

    assert ended.code == 2
    assert ended.text.count("disttune: ") == 1
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, "mpirun itself has nothing to say"
