"""One run directory, one job: who may write there, and what the same or another command finds."""

import json
import re
import shutil
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from disttune.runtime.records import ResultRecord
from tests.distributed.jobs import chain, make_job, records, table, write_evaluation
from tests.distributed.launch import Ended, Launched, disttune, kill, mpirun, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a job of four trials that has ended; its run directory is "run"."""
    folder = tmp_path_factory.mktemp("finished") / "job"
    job = make_job(folder, "print('evaluated')", max_trials=4)
    assert run(disttune("tune", job, "-o", folder / "run")).code == 3
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder, at another place."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def tune(folder: Path, *arguments: str) -> Ended:
    ended = run(disttune("tune", folder / "job.toml", "-o", folder / "run", *arguments))
    assert "Traceback" not in ended.text
    return ended


def test_second_job_in_a_directory_is_refused_until_the_first_is_gone(tmp_path: Path):
    job = make_job(tmp_path, "time.sleep(600 if n >= 0 and 'QUICK' not in os.environ else 0)", max_trials=2)
    command = disttune("tune", job, "-o", tmp_path / "run")
    first = Launched(command)
    first.wait_for("stage:")
    holder = first.agents()[0]

    for refused in (run(command), run(mpirun(2, "tune", job, "-o", tmp_path / "run"))):
        assert refused.code == 2
        assert f"in use by process {holder.pid} on {socket.gethostname()}" in refused.stderr
        assert "Traceback" not in refused.text
    kill(holder)
    assert run(command, {"QUICK": "1"}).code == 3
    first.wait()


def change_model(folder: Path) -> None:
    model = chain()
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save_model(model, folder / "model.onnx")


def change_data(folder: Path) -> None:
    np.savez(folder / "calibration.npz", x=np.ones((32, 8), np.float32))


@pytest.mark.parametrize(
    ("change", "override", "difference"),
    [
        (change_model, "", r"  model: the journal holds [0-9a-f]{12}, this job has [0-9a-f]{12}"),
        (change_data, "", r"  data: the journal holds [0-9a-f]{12}, this job has [0-9a-f]{12}"),
        (lambda f: write_evaluation(f, "n += 1"), "", r"  code: the journal holds [0-9a-f]{12}, this job"),
        (lambda f: None, "tuning.seed=7", "  tuning.seed: the journal holds 0, this job has 7"),
    ],
    ids=["model", "data", "code", "job key"],
)
def test_another_job_is_refused_and_the_difference_named(
    folder: Path, change: Callable[[Path], None], override: str, difference: str
):
    before = (folder / "run" / "journal.jsonl").read_bytes()
    change(folder)

    refused = tune(folder, *(["--set", override] if override else []))

    assert refused.code == 2
    assert re.search(f"^{difference}", refused.stderr, re.MULTILINE), refused.stderr
    assert refused.stderr.count("the journal holds") == 1
    assert "--fresh" in refused.stderr
    assert (folder / "run" / "journal.jsonl").read_bytes() == before


def test_comments_in_the_code_may_change_and_a_finished_job_answers_at_once(folder: Path):
    code = folder / "eval.py"
    code.write_text("# why we measure it like this\n\n" + code.read_text())
    before, log = whole_result(folder), (folder / "run" / "logs" / "rank-0.log").read_text()

    assert tune(folder).code == 3
    assert whole_result(folder) == before
    assert (folder / "run" / "logs" / "rank-0.log").read_text() == log, "nothing is evaluated again"


def test_fresh_starts_anew_with_another_job(folder: Path):
    assert tune(folder, "--fresh", "--set", "tuning.strategy=random").code == 3
    assert [row["stage"] for row in table(folder / "run")] == ["random"] * 4


def test_more_trials_may_be_asked_for_when_a_job_goes_on(folder: Path):
    before = table(folder / "run", without=())

    ended = tune(folder, "--set", "tuning.max_trials=6")

    rows = table(folder / "run", without=())
    assert ended.code == 3
    assert "resumed: 4 trials" in ended.stdout
    assert (len(rows), rows[:4]) == (6, before)
    assert len(records(folder / "run", ResultRecord)) == 6


def test_journal_of_an_older_disttune_goes_on_where_nothing_that_counts_has_changed(folder: Path):
    write_as_of_version(folder / "run" / "journal.jsonl", "0.0.1", without=("semantics",))
    before = table(folder / "run", without=())

    ended = tune(folder, "--set", "tuning.max_trials=6")

    assert ended.code == 3
    assert 'disttune: the journal holds "0.0.1"' in ended.text
    assert table(folder / "run", without=())[:4] == before
    assert len(records(folder / "run", ResultRecord)) == 6


def test_code_that_is_imported_only_while_it_evaluates_is_named(tmp_path: Path):
    job = make_job(tmp_path, "import late", max_trials=1)
    (tmp_path / "late.py").write_text("")

    ended = run(disttune("tune", job, "-o", tmp_path / "run"))

    assert ended.code == 3, ended.text
    assert ended.text.count("late.py: imported only while the evaluation runs") == 1


def write_as_of_version(journal: Path, version: str, without: tuple[str, ...]) -> None:
    """Let another disttune have written a journal that did not know some keys of its first line."""
    first, *others = journal.read_bytes().splitlines(keepends=True)
    data = json.loads(first)
    data["versions"]["disttune"] = version
    kept = {k: v for k, v in data.items() if k not in (*without, "crc")}
    body = json.dumps(kept, separators=(",", ":"))[:-1].encode()
    journal.write_bytes(b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)) + b"".join(others))


def whole_result(folder: Path) -> tuple[object, ...]:
    """Everything but the job's seconds."""
    path = folder / "run"
    result = json.loads((path / "result.json").read_text())
    return result | {"seconds": 0}, table(path, without=()), (path / "best.onnx").read_bytes()
