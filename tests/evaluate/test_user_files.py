import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import DataError
from disttune.evaluate.user_code import load_function
from disttune.evaluate.user_files import FileRecorder, collect_files, write_files
from tests.evaluate.small_models import write


@pytest.fixture(autouse=True)
def _unchanged_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def names(recorder, folder):
    return [p.relative_to(folder).as_posix() for p in recorder.paths]


def test_files_opened_below_the_folder_are_recorded(tmp_path):
    job = tmp_path / "job"
    for name in ("a.txt", "data/b.bin", "data/c.txt", "unread.txt"):
        write(job / name, "x")
    write(tmp_path / "outside.txt", "x")
    with FileRecorder(job) as recorder:
        (job / "a.txt").read_text()
        os.close(os.open(job / "data" / "b.bin", os.O_RDONLY))
        open(bytes(job / "data" / ".." / "data" / "c.txt")).close()  # noqa: PTH123
        (tmp_path / "outside.txt").read_text()
    assert names(recorder, job) == ["a.txt", "data/b.bin", "data/c.txt"]


def test_relative_paths_count_from_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")
    monkeypatch.chdir(tmp_path)
    with FileRecorder(tmp_path) as recorder, open("a.txt"):  # noqa: PTH123
        pass
    assert names(recorder, tmp_path) == ["a.txt"]


def test_a_file_behind_a_link_keeps_its_name_below_the_folder(tmp_path):
    write(tmp_path / "disk" / "x.txt", "x")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "data").symlink_to(tmp_path / "disk")
    with FileRecorder(tmp_path / "job") as recorder:
        (tmp_path / "job" / "data" / "x.txt").read_text()
    assert collect_files([], recorder.paths, None, tmp_path / "job") == {"data/x.txt": b"x"}


def test_nothing_is_recorded_outside_of_the_block(tmp_path):
    write(tmp_path / "a.txt", "x")
    with FileRecorder(tmp_path) as recorder:
        pass
    (tmp_path / "a.txt").read_text()
    assert recorder.paths == ()


def test_a_recorder_entered_again_adds_up(tmp_path):
    recorder = FileRecorder(tmp_path)
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "x")
        with recorder:
            (tmp_path / name).read_text()
    assert names(recorder, tmp_path) == ["a.txt", "b.txt"]


def test_written_missing_and_excluded_files_are_left_out(tmp_path):
    for name in ("run/log.txt", "gone.txt", "updated.bin"):
        write(tmp_path / name, "x")
    with FileRecorder(tmp_path, exclude=[tmp_path / "run"]) as recorder:
        (tmp_path / "cache.txt").write_text("made here")
        (tmp_path / "cache.txt").read_text()
        (tmp_path / "run" / "log.txt").read_text()
        (tmp_path / "gone.txt").read_text()
        (tmp_path / "updated.bin").open("r+b").close()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing.txt").read_text()
        list(tmp_path.iterdir())
    (tmp_path / "gone.txt").unlink()
    assert names(recorder, tmp_path) == ["updated.bin"]


def test_modules_from_below_the_folder_are_recorded_even_when_imported_from_bytecode(tmp_path):
    write(tmp_path / "recorded_helper.py", "K = 1")
    write(tmp_path / "site-packages" / "recorded_installed.py", "")
    write(
        tmp_path / "eval.py",
        "import sys\nimport recorded_helper\ndef evaluate(model):\n"
        "    sys.path.append(model)\n    import recorded_installed",
    )
    with FileRecorder(tmp_path) as recorder:
        load_function("eval.py:evaluate", tmp_path)(str(tmp_path / "site-packages"))
    assert names(recorder, tmp_path) == ["eval.py", "recorded_helper.py"]


def test_code_and_recorded_files_are_collected(tmp_path):
    write(tmp_path / "eval.py", "code")
    write(tmp_path / "data" / "a.txt", "a")
    files = collect_files([tmp_path / "eval.py"], [tmp_path / "data" / "a.txt"], None, tmp_path)
    assert files == {"data/a.txt": b"a", "eval.py": b"code"}


@pytest.mark.parametrize(
    "asked", ["data", "data/*.txt", "data/**/*.txt", "data/a.txt", "{folder}/data/a.txt"]
)
def test_files_asked_for_replace_the_recorded_ones(tmp_path, asked):
    for name in ("eval.py", "seen.txt", "data/a.txt"):
        write(tmp_path / name, name)
    asked = tmp_path.__class__(asked.format(folder=tmp_path))
    files = collect_files([tmp_path / "eval.py"], [tmp_path / "seen.txt"], [asked], tmp_path)
    assert list(files) == ["data/a.txt", "eval.py"]


def test_asking_for_no_files_leaves_the_code_alone(tmp_path):
    write(tmp_path / "eval.py", "code")
    write(tmp_path / "seen.txt", "x")
    assert list(collect_files([tmp_path / "eval.py"], [tmp_path / "seen.txt"], (), tmp_path)) == ["eval.py"]


def test_asking_for_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r'evaluation.files: there is no "data/\*.npz" below'):
        collect_files([], [], [tmp_path / "data" / "*.npz"], tmp_path)


def test_code_outside_of_the_folder_is_an_error(tmp_path):
    write(tmp_path / "eval.py", "")
    (tmp_path / "job").mkdir()
    for path in (tmp_path / "eval.py", tmp_path / "job" / ".." / "eval.py"):
        with pytest.raises(DataError, match="lies outside of the job's folder"):
            collect_files([path], [], None, tmp_path / "job")


def test_large_recorded_files_must_be_asked_for(tmp_path):
    write(tmp_path / "big.bin", "x" * 3_000_000)
    with pytest.raises(DataError, match=r'largest is big.bin, 3 MiB.*more than 2 MiB.*"evaluation.files"'):
        collect_files([], [tmp_path / "big.bin"], None, tmp_path, max_bytes=2 * 2**20)
    asked = collect_files([], [], [tmp_path / "big.bin"], tmp_path, max_bytes=2 * 2**20)
    assert len(asked["big.bin"]) == 3_000_000


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", ".", "a\0b"])
def test_names_that_leave_the_directory_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(DataError, match="does not stay below"):
        write_files({"good.txt": b"", name: b""}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_does_not_lead_out_of_the_directory(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="through a link"):
        write_files({"link/x": b""}, tmp_path / "out")


NAME = st.text("abc.", min_size=1, max_size=5).filter(lambda n: set(n) != {"."})


@given(
    st.dictionaries(st.lists(NAME, min_size=1, max_size=2).map("/".join), st.binary(max_size=20), max_size=5)
)
def test_collected_files_arrive_as_they_were(tmp_path_factory, files):
    tops = {n.partition("/")[0] for n in files if "/" in n}
    files = {n: c for n, c in files.items() if "/" in n or n not in tops}  # no name is file and folder
    out = tmp_path_factory.mktemp("out")
    write_files(files, out)
    assert collect_files([], [], [out], out) == files if files else True
