"""Reading job files: what can be wrong with the file itself, and where relative paths count from."""

import os
import socket
from pathlib import Path

import pytest

from disttune.config.errors import JobFileError
from disttune.config.job_file import dump_job, job_from_dict, load_job
from tests.config.jobs import FOLDER, LEAST, least

LEAST_TOML = """
[model]
path = "model.onnx"
[calibration]
loader = "eval.py:calibration"
[evaluation]
function = "eval.py:evaluate"
"""


def message_of(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    return str(caught.value)


def test_missing_file_is_named_with_the_job_files_beside_it(tmp_path):
    (tmp_path / "digits.toml").write_text(LEAST_TOML)
    path = tmp_path / "digit.toml"
    assert message_of(path) == f"{path}: no such file. TOML files in {tmp_path}: digits.toml."


def test_missing_file_in_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "no" / "job.toml"
    assert message_of(path) == f"{path}: no such file."


def test_folder_in_place_of_a_file_is_told(tmp_path):
    (tmp_path / "digits.toml").write_text(LEAST_TOML)
    expected = f"{tmp_path}: is a folder; give the job file in it. TOML files in {tmp_path}: digits.toml."
    assert message_of(tmp_path) == expected


def test_file_that_cannot_be_opened_tells_the_reason_of_the_system(tmp_path):
    path = tmp_path / "job.toml"
    with socket.socket(socket.AF_UNIX) as unix_socket:
        here = Path.cwd()
        os.chdir(tmp_path)  # socket names are short
        try:
            unix_socket.bind("job.toml")
        finally:
            os.chdir(here)
        assert message_of(path) == f"{path}: cannot be read: No such device or address"


def test_path_through_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "job.toml"
    assert message_of(path) == f"{path}: cannot be read: Not a directory"


def test_path_with_a_null_character_is_told():
    assert "is not a path" in message_of(Path("job\0.toml"))


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf\n"])
def test_empty_file_tells_what_a_job_needs(tmp_path, content):
    path = tmp_path / "job.toml"
    expected = f'{path}: is empty; a job needs at least [model] with path = "model.onnx"'
    assert message_of(path, content) == expected


def test_text_in_another_encoding_is_told_with_its_line(tmp_path):
    path = tmp_path / "job.toml"
    expected = f"{path}, line 2: is not UTF-8 text; save the file as UTF-8"
    assert message_of(path, '[model]\npath = "Übung.onnx"\n'.encode("latin-1")) == expected


@pytest.mark.parametrize(("content", "expected"), [
    ("[model]\npath = model.onnx\n", "line 2, column 8: Invalid value: path = model.onnx"),
    ("[model]\npath\n", "line 2, column 5: Expected '=' after a key in a key/value pair: path"),
    ("[model]\nseed = 1\nseed = 2\n", "line 3, column 9: Cannot overwrite a value: seed = 2"),
    ("[model\n", "line 1, column 7: Expected ']' at the end of a table declaration: [model"),
    ("[model]\nx = [1,\n2", "line 3 (the last): Unclosed array"),
])  # fmt: skip
def test_broken_toml_is_told_with_line_column_and_text(tmp_path, content, expected):
    path = tmp_path / "job.toml"
    assert message_of(path, content.encode()) == f"{path}, {expected}"


@pytest.mark.parametrize("content", ["x = " + "[" * 100_000, "x = " + "1" * 5000])
def test_toml_beyond_the_parser_s_limits_is_told_without_a_traceback(tmp_path, content):
    assert "cannot be read as TOML" in message_of(tmp_path / "job.toml", content.encode())


def test_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST_TOML.replace("\n", "\r\n").encode())
    assert load_job(path).model.path == tmp_path / "model.onnx"


def test_relative_job_path_gives_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "job.toml").write_text(LEAST_TOML)
    monkeypatch.chdir(tmp_path)
    job = load_job(Path("sub/job.toml"))
    assert job.folder == tmp_path / "sub"
    assert job.model.path == tmp_path / "sub" / "model.onnx"
    assert job.calibration.loader == f"{tmp_path}/sub/eval.py:calibration"


def test_absolute_paths_stay():
    job = job_from_dict(
        least(model={"path": "/models/a.onnx"}, evaluation={"files": ["/data/a", "b"]}), FOLDER
    )
    assert job.model.path == Path("/models/a.onnx")
    assert job.evaluation.files == (Path("/data/a"), FOLDER / "b")


def test_folder_key_moves_where_relative_paths_count_from():
    job = job_from_dict({**LEAST, "folder": "inner"}, FOLDER)
    assert job.folder == FOLDER / "inner"
    assert job.model.path == FOLDER / "inner" / "model.onnx"


def test_mistakes_name_the_file_as_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "job.toml").write_text(LEAST_TOML + "[tuning]\nmax_trial = 3\nmax_trials = 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobFileError) as caught:
        load_job(Path("job.toml"))
    lines = str(caught.value).splitlines()
    assert "job.toml, [tuning] max_trials: must be at least 1; 0 was given" in lines
    assert any(
        line.startswith(
            'job.toml, [tuning] max_trial: no key "max_trial". Nearest: "max_trials". All: batch_size,'
        )
        for line in lines
    )
    assert len(lines) == 2


def test_script_may_leave_evaluation_and_calibration_to_its_functions():
    job = job_from_dict({"model": {"path": "m.onnx"}}, FOLDER, functions_given=True)
    assert job.evaluation.entries == ()
    assert not job.calibration.given
    assert "[tuning]" in dump_job(job)


def test_values_of_python_and_numpy_are_taken_from_a_dictionary():
    import numpy as np

    data = least(
        model={"path": Path("m.onnx"), "providers": ("A", "B")},
        tuning={"max_trials": np.int64(5)},
        accuracy={"tolerable_loss": np.float32(0.5)},
        calibration={"samples": np.arange(1, 3)},
    )
    job = job_from_dict(data, FOLDER)
    assert (job.model.path, job.model.providers) == (FOLDER / "m.onnx", ("A", "B"))
    assert (job.tuning.max_trials, job.accuracy.tolerable_loss) == (5, 0.5)
    assert job.calibration.samples == (1, 2)


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(JobFileError, match="not valid Unicode"):
        job_from_dict(least(model={"path": "m\udcff.onnx"}), FOLDER)
    with pytest.raises(JobFileError, match="not valid Unicode"):
        job_from_dict(LEAST, Path("/jobs/\udcff"))


def test_given_data_are_not_changed():
    data = least()
    job_from_dict(data, FOLDER, overrides=["tuning.seed=3"])
    assert data == LEAST
