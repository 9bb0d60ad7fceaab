"""The journal: every fact of a job on disk before it counts, so that a killed job goes on where it was.

`journal.jsonl` holds one JSON object per line, in ASCII:

    {"n":2,"session":1,"kind":"deadline","t":3.5,"trial_timeout_s":60.0,"crc":"9f0c2a17"}

- "n" is the line's number from 1: lines that were removed, doubled or moved are noticed.
- "crc", always the last key, is the CRC-32 (zlib's, 8 lower-case hexadecimal digits) of the bytes of
  the line that stand before `,"crc":`.
- Line 1 is the job record.
- A torn last line (no line end, or its checksum is wrong) is the trace of a kill and is dropped. Any
  other line that cannot be read is an error: a record is never skipped silently.
"""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttune.config.errors import JournalError
from disttune.runtime.records import (
    FORMAT,
    JobRecord,
    ProbeResultRecord,
    Record,
    ResultRecord,
    SessionRecord,
    record_from_dict,
)

_START = b'{"n":1,"session":1,"kind":"job",'
_CHECKSUM = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_CHECKSUM_LENGTH = len(b',"crc":"01234567"}')


@dataclass(frozen=True)
class JournalContents:
    """What a journal says.

    Args:
        records: in the order they were written.
        torn: whether a torn last line was dropped.
        n_lines: whole lines, one for each record.
        n_bytes: length of the whole lines: the next one goes there.
    """

    records: tuple[Record, ...] = ()
    torn: bool = False
    n_lines: int = 0
    n_bytes: int = 0

    @property
    def job(self) -> JobRecord | None:
        """Which job it belongs to; None for an empty journal."""
        first = self.records[0] if self.records else None
        return first if isinstance(first, JobRecord) else None

    @property
    def n_sessions(self) -> int:
        return sum(isinstance(r, SessionRecord) for r in self.records)

    @property
    def n_results(self) -> int:
        """Trials and probes that were measured."""
        return sum(isinstance(r, ResultRecord | ProbeResultRecord) for r in self.records)

    @property
    def seconds(self) -> float:
        """Job seconds used so far: those of the latest record."""
        return max((r.t for r in self.records), default=0.0)


def read_journal(path: Path) -> JournalContents:
    """Read a journal; it may be growing at the same time.

    Raises:
        JournalError: the file cannot be read, or a line other than a torn last one cannot be trusted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(
            f"{path}: the journal cannot be read: {error.strerror}. Is this the directory of a run?"
        ) from error
    return parse_journal(data, path)


def parse_journal(data: bytes, path: Path) -> JournalContents:
    """Read the bytes of a journal; `path` is for messages.

    Raises:
        JournalError: a line other than a torn last one cannot be trusted.
    """
    if not _starts_like_a_journal(data):
        raise JournalError(
            f"{path}, line 1: this is not how a journal begins. "
            "If the file is not disttune's, choose another run directory; "
            "if it was damaged, restore it from a copy or remove it: its job starts anew."
        )
    *lines, torn_line = data.split(b"\n")
    if not torn_line and lines and _body(lines[-1]) is None:
        torn_line = lines.pop() + b"\n"
    if _holds_a_record(torn_line):
        raise _LineReader(path, len(lines) + 1).damaged(
            "it runs on after its checksum: its line end was lost"
        )
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        records.append(_LineReader(path, number, records[0] if records else None).read(line))
    return JournalContents(tuple(records), bool(torn_line), len(lines), len(data) - len(torn_line))


def is_journal(path: Path) -> bool:
    """Whether a file begins as a journal does (an empty one may become one); it need not be whole."""
    with path.open("rb") as file:
        return _starts_like_a_journal(file.read(len(_START)))


def encode_line(number: int, session: int, record: Record) -> bytes:
    """The journal's line for a record, with its line end.

    Raises:
        ValueError: a value inside is not finite.
        TypeError: a value inside is not plain JSON.
    """
    line = {"n": number, "session": session, **record.to_dict()}
    body = _encode(line)[:-1].encode("ascii")
    return b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))


class _LineReader:
    """Reads one whole line; every message names it."""

    def __init__(self, path: Path, number: int, first: Record | None = None):
        self._path = path
        self._number = number
        self._job = first if isinstance(first, JobRecord) else None

    def read(self, line: bytes) -> Record:
        body = _body(line)
        if body is None:
            raise self.damaged("the checksum is missing or does not match: the line was changed or damaged")
        data = self._parsed(body)
        self._check_place(data)
        self._check_format(data)
        try:
            return record_from_dict(data)
        except ValueError as error:
            raise JournalError(
                f"{self._where}: {error}. {self._written_by(data)} Run the command with that version, "
                "or start anew (--fresh, fresh=True)."
            ) from None

    @property
    def _where(self) -> str:
        return f"{self._path}, line {self._number}"

    def _parsed(self, body: bytes) -> dict[str, Any]:
        try:
            data = json.loads(body + b"}")
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"not JSON ({error})") from None
        if not isinstance(data, dict):
            raise self.damaged("not a JSON object")
        return data

    def _check_place(self, data: dict[str, Any]) -> None:
        found = data.get("n")
        if found != self._number:
            raise self.damaged(f"it is numbered {found!r}: lines were removed, added or moved")
        session = data.get("session")
        if not isinstance(session, int) or isinstance(session, bool) or session < 1:
            raise self.damaged(f'"session" must be an integer >= 1, got {session!r}')

    def _check_format(self, data: dict[str, Any]) -> None:
        if data.get("kind") == "job" and data.get("format") != FORMAT:
            raise JournalError(
                f"{self._where}: the journal has format {data.get('format')!r}; this disttune reads format "
                f"{FORMAT}. {self._written_by(data)} Run the command with that version, or start anew "
                "(--fresh, fresh=True)."
            )

    def _written_by(self, data: dict[str, Any]) -> str:
        """Sentence that says which version wrote the journal."""
        versions = self._job.versions if self._job else data.get("versions")
        version = versions.get("disttune") if isinstance(versions, dict) else None
        return f"The journal was written by disttune {version or '(unknown version)'}."

    def damaged(self, what: str) -> JournalError:
        n_before = self._number - 1
        keep = f"keep what stands before it (head -n {n_before}), " if n_before else ""
        return JournalError(
            f"{self._where}: {what}. Restore the file from a copy, {keep}or start anew (--fresh, fresh=True)."
        )


def _starts_like_a_journal(data: bytes) -> bool:
    return _START.startswith(data[: len(_START)])


def _body(line: bytes) -> bytes | None:
    """What stands before the checksum at the line's end when that is right, else None."""
    found = _CHECKSUM.fullmatch(line, max(0, len(line) - _CHECKSUM_LENGTH))
    return line[: found.start()] if found and _is_right(found) else None


def _holds_a_record(torn_line: bytes) -> bool:
    """Whether a whole record stands before other bytes: not what a kill leaves behind."""
    return any(_is_right(m) for m in _CHECKSUM.finditer(torn_line) if m.end() < len(torn_line.rstrip(b"\n")))


def _is_right(checksum: re.Match[bytes]) -> bool:
    return zlib.crc32(checksum.string[: checksum.start()]) == int(checksum[1], 16)
