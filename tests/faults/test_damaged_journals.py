"""Damaged and forged run directories: resume, simulate and report say what cannot be trusted, or are right.

Damage is bytes cut, flipped, added, removed or moved in the files of a real run; what is accepted of a
journal must be how it began. A forged line has a right checksum and other content: there only a message is
asked for. `DISTTUNE_FUZZ=20000 pytest tests/faults/test_damaged_journals.py` is the long form.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disttune.cli import main
from disttune.config.errors import DisttuneError, JournalError
from disttune.config.job_file import load_job
from disttune.report.formats import FORMATS
from disttune.runtime.journal import parse_journal, read_journal
from disttune.runtime.recording import JournalRecording
from disttune.runtime.records import Record
from tests.distributed.jobs import make_job, records, table
from tests.distributed.launch import disttune, run
from tests.distributed.test_simulated_ranks import RecordedRun, space_of

N_EXAMPLES = int(os.environ.get("DISTTUNE_FUZZ", "60"))
PATH = Path("journal.jsonl")
GARBAGE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\n", b"{}\n", b"null\n", b"\0" * 4096, b"\r\n", b'{"n":2', b'"crc":"00000000"}\n']),
)
PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=8),
        st.sampled_from(["ok", "MatMul", "fc0", "float32", "goal", "exceptions", "default"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def fuzzed(test: Callable[..., None]) -> Any:
    """With so many examples."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=N_EXAMPLES, suppress_health_check=quiet)(given(data=st.data())(test))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """A job of 12 trials that has ended."""
    folder = tmp_path_factory.mktemp("job")
    job = make_job(folder, "if n == 5: raise ValueError('always')")
    assert run(disttune("tune", job, "-o", folder / "run")).code == 3
    ops = space_of(load_job(job)).ops
    return RecordedRun(load_job(job), folder / "run", JournalRecording(records(folder / "run", Record), ops))


def damaged(data: bytes, draw: Callable[..., Any]) -> bytes:
    """Bytes after one to three mishaps."""
    for _ in range(draw(st.integers(1, 3))):
        lines = data.splitlines(keepends=True)
        at = draw(st.integers(0, max(0, len(data) - 1)))
        i = draw(st.integers(0, max(0, len(lines) - 1)))
        j = draw(st.integers(0, max(0, len(lines) - 1)))
        match draw(st.sampled_from(["cut", "flip", "add", "remove", "drop", "double", "swap", "add line"])):
            case "cut":
                data = data[:at]
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case "add":
                data = data[:at] + draw(GARBAGE) + data[at:]
            case "remove":
                data = data[:at] + data[at + draw(st.integers(1, 300)) :]
            case "drop":
                data = b"".join(lines[:i] + lines[i + 1 :])
            case "double" if lines:
                data = b"".join([*lines[:j], lines[i], *lines[j:]])
            case "swap" if lines:
                lines[i], lines[j] = lines[j], lines[i]
                data = b"".join(lines)
            case "add line":
                data = b"".join([*lines[:i], draw(GARBAGE), *lines[i:]])
    return data


def forged(data: bytes, draw: Callable[..., Any]) -> bytes:
    """A journal of which some values are others, with right checksums."""
    lines = [json.loads(line) for line in data.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        place = lines[draw(st.integers(0, len(lines) - 1))]
        while True:
            inner = [k for k, v in place.items() if isinstance(v, dict) and v]
            if not inner or draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(inner))]
        key = draw(st.sampled_from([k for k in place if k not in ("crc", "n")] or ["x"]))
        if draw(st.integers(0, 4)):
            place[key] = draw(PLAIN)
        else:
            place.pop(key, None)
    return b"".join(map(line_of, lines))


def parsed(data: bytes) -> tuple[Record, ...] | None:
    """The records; None stands for an error that names a line."""
    try:
        return parse_journal(data, PATH).records
    except JournalError as error:
        return None if re.match(r"journal\.jsonl, line \d+: ", str(error)) else pytest.fail(str(error))


def line_of(values: dict[str, Any]) -> bytes:
    body = json.dumps({k: v for k, v in values.items() if k != "crc"}, separators=(",", ":"))[:-1].encode()
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


@fuzzed
def test_damage_never_gives_another_record(data: st.DataObject, recorded: RecordedRun):
    whole = (recorded.path / "journal.jsonl").read_bytes()
    bytes_ = damaged(whole, data.draw)
    found = parsed(bytes_)
    assert found is None or found == parse_journal(whole, PATH).records[: len(found)]


@fuzzed
def test_job_goes_on_from_a_damaged_journal_to_the_same_table(data: st.DataObject, recorded: RecordedRun):
    bytes_ = damaged((recorded.path / "journal.jsonl").read_bytes(), data.draw)
    found = parsed(bytes_)
    if found is not None:
        known = JournalRecording(found, space_of(recorded.job).ops)
        assert recorded.again(data.draw(st.integers(1, 5)), known) == table(recorded.path)


@fuzzed
def test_job_goes_on_from_a_forged_journal_or_says_why_not(data: st.DataObject, recorded: RecordedRun):
    bytes_ = forged((recorded.path / "journal.jsonl").read_bytes(), data.draw)
    found = parsed(bytes_)
    if found is not None:
        with contextlib.suppress(DisttuneError):
            recorded.again(2, JournalRecording(found, space_of(recorded.job).ops))


@fuzzed
def test_simulate_takes_any_journal_or_says_why(data: st.DataObject, recorded: RecordedRun, tmp_path: Path):
    spoil = data.draw(st.sampled_from([damaged, forged]))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(spoil((recorded.path / "journal.jsonl").read_bytes(), data.draw))

    assert main(["simulate", str(path), "--ranks", "1,3"]) in (0, 2)


@fuzzed
def test_report_takes_any_run_or_says_why_not(data: st.DataObject, recorded: RecordedRun, tmp_path: Path):
    shutil.copytree(recorded.path, tmp_path, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["result.json", "trials.csv"]))
    content = (recorded.path / name).read_bytes()
    if name == "result.json" and data.draw(st.booleans()):
        result = json.loads(content)
        key = data.draw(st.sampled_from(sorted(result)))
        result[key] = data.draw(PLAIN)
        (tmp_path / name).write_text(json.dumps(result))
    else:
        (tmp_path / name).write_bytes(damaged(content, data.draw))

    for format_ in FORMATS:
        assert main(["report", str(tmp_path), "--format", format_]) in (0, 2)
    assert main(["compare", str(recorded.path), str(tmp_path)]) in (0, 2, 4)


@pytest.mark.on_demand
def test_command_goes_on_from_any_line_to_the_same_table(recorded: RecordedRun, tmp_path: Path):
    lines = (recorded.path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for n in range(0, len(lines), 2):
        path = tmp_path / str(n)
        shutil.copytree(recorded.path, path)
        (path / "journal.jsonl").write_bytes(b"".join(lines[:n]) + lines[n][: 7 * n % len(lines[n])])
        ended = run(disttune("tune", recorded.path.parent / "job.toml", "-o", path))
        assert ended.code == 3, ended.text
        assert table(path) == table(recorded.path)
        assert read_journal(path / "journal.jsonl").n_results == 12
