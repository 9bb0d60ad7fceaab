"""Whatever an evaluation does, its trial is a row with a reason, and the search goes on."""

from pathlib import Path

import pytest

from disttune.runtime.log_files import LIMIT_BYTES
from disttune.runtime.records import ResultRecord
from tests.distributed.jobs import EVALUATION, make_job, records, table
from tests.distributed.launch import Launched, disttune, mpirun

BODY = '''
import ctypes, subprocess
print(f"trial {n} begins", file=sys.stderr)
if n >= 5: os.fspath(model)  # written to a temporary file
match n:
    case 1: raise ValueError("bad shape")
    case 2: return float("nan")
    case 3: return None
    case 4: return "0.9"
    case 5: time.sleep(600)
    case 6: os._exit(7)
    case 7: ctypes.string_at(0)
    case 8:
        hoard = []
        while True:
            hoard.append(np.ones(2**23))
            time.sleep(0.05)
    case 9: sys.exit(3)
    case 10:
        for _ in range(25): os.write(2, b"x" * 10**6)
        for _ in range(25): os.write(2, b"line\\n" * 200_000)
        raise ValueError("noisy")
    case 11:
        subprocess.Popen(["sleep", "600"])
        os._exit(0)
    case 12 | 13: subprocess.Popen(["sleep", "600"])
'''  # fmt: skip
EXPECTED = {  # trial: status, and a part of the reason
    0: ("ok", ""),
    1: ("failed", "ValueError: bad shape (eval.py, line "),
    2: ("failed", "nan"),
    3: ("failed", "None"),
    4: ("failed", "'0.9'"),
    5: ("timeout", "longer than 6 s (tuning.trial_timeout)"),
    6: ("crashed", "exit code 7"),
    7: ("crashed", "SIGSEGV"),
    8: ("out_of_memory", "tuning.memory_limit = 400 MiB"),
    9: ("failed", "SystemExit: 3"),
    10: ("failed", "ValueError: noisy"),
    11: ("crashed", "exit code 0"),
    12: ("ok", ""),
    13: ("ok", ""),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same job of misbehaving evaluations on one process and on two ranks."""
    folder = tmp_path_factory.mktemp("job")
    job = make_job(folder, BODY, max_trials=14, trial_timeout=6.0, memory_limit="400 MiB")
    commands = {
        "one": disttune("tune", job, "-o", folder / "one"),
        "two": mpirun(2, "tune", job, "-o", folder / "two"),
    }
    at_once = [Launched(command) for command in commands.values()]
    for ended in [launched.wait() for launched in at_once]:
        assert ended.code == 3, ended.text
        assert "Traceback" not in ended.text
        assert ended.left == (), "what an evaluation started ends with the job"
    return {name: folder / name for name in commands}


@pytest.mark.parametrize("n", EXPECTED)
def test_row_has_status_and_reason(runs: dict[str, Path], n: int):
    row = table(runs["one"])[n]

    status, reason = EXPECTED[n]
    assert row["status"] == status
    assert reason in row["reason"]
    assert (row["metric"] != "") == (status == "ok")


def test_rows_are_the_same_on_two_ranks(runs: dict[str, Path]):
    assert table(runs["two"]) == table(runs["one"])


@pytest.mark.parametrize("ranks", ["one", "two"])
def test_last_lines_of_standard_error_are_kept_with_a_row_that_failed(runs: dict[str, Path], ranks: str):
    for result in records(runs[ranks], ResultRecord):
        if result.status != "ok" and result.trial != 10:
            assert result.stderr_tail.startswith(f"trial {result.trial} begins")
        assert len(result.stderr_tail) < 10_000


@pytest.mark.parametrize("ranks", ["one", "two"])
def test_segfault_names_the_line_of_the_evaluation(runs: dict[str, Path], ranks: str):
    (crashed,) = [r for r in records(runs[ranks], ResultRecord) if r.trial == 7]

    line = EVALUATION.replace("BODY\n", BODY).splitlines().index("    case 7: ctypes.string_at(0)") + 1
    assert f'eval.py", line {line} in evaluate' in crashed.stderr_tail


@pytest.mark.parametrize("ranks", ["one", "two"])
def test_noise_is_cut_in_journal_and_log(runs: dict[str, Path], ranks: str):
    (noisy,) = [r for r in records(runs[ranks], ResultRecord) if r.trial == 10]

    assert noisy.stderr_tail.endswith("line")
    assert all(log.stat().st_size < LIMIT_BYTES + 1000 for log in (runs[ranks] / "logs").iterdir())
    assert (runs[ranks] / "journal.jsonl").stat().st_size < 100_000
