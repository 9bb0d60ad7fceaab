"""A job's directory: what it is called there, whose it is, and what a new job may remove.

In the order of a run: `open` takes the lock and reads the journal; the job is loaded and its digests
are made; `settle` goes on to the next directory where nobody asked for this one and it is another job's;
`adopt` refuses a directory that belongs to another job, or makes it this one's. Until then nothing of an
earlier job is touched: with `fresh`, too, its files go only when the new job is known to be right.
"""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from disttune.config.errors import DisttuneError, RunDirectoryError
from disttune.config.job import default_fingerprint
from disttune.runtime.atomic_write import remove_temporaries, write_atomically
from disttune.runtime.journal import JournalContents, encode_line, is_journal, read_journal
from disttune.runtime.journal_writer import Journal
from disttune.runtime.lock import RunLock
from disttune.runtime.records import JobRecord
from disttune.runtime.semantics import semantic_changes

_LOG_NAME = re.compile(r"rank-\d+\.log")
_SHOWN = 80  # characters of a value in a message
_MEND = "Give another run directory, or start anew in this one (--fresh, fresh=True): its results go."


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two jobs differ; digests are shortened, absent values say so."""

    name: str
    recorded: str
    current: str

    def __str__(self) -> str:
        return f"{self.name}: the journal holds {self.recorded}, this job has {self.current}"


def job_differences(recorded: JobRecord, current: JobRecord) -> tuple[Difference, ...]:
    """Why one job may not go on in the other's directory; empty when it may.

    Versions may differ, and keys that the recorded disttune did not know may stand at their defaults.
    """
    digests = tuple(
        Difference(name, old[:12] or "none", new[:12] or "none")
        for name, old, new in (
            ("model", recorded.model_digest, current.model_digest),
            ("data", recorded.data_digest, current.data_digest),
            ("code", recorded.code_digest, current.code_digest),
        )
        if old != new
    )
    defaults = default_fingerprint()
    since_added = {
        k for k, v in current.fingerprint.items() if k not in recorded.fingerprint and v == defaults.get(k)
    }
    asked = {k: v for k, v in current.fingerprint.items() if k not in since_added}
    keys = _key_differences(recorded.fingerprint, asked)
    if recorded.strategy != current.strategy and not any(d.name == "tuning.strategy" for d in keys):
        keys += (Difference("strategy", recorded.strategy, current.strategy),)
    return digests + keys


def version_differences(recorded: JobRecord, current: JobRecord) -> tuple[Difference, ...]:
    """Packages that have another version now: worth a warning, since results may differ in the last bit."""
    return _key_differences(recorded.versions, current.versions)


class RunDirectory:
    """The directory of one job. Making one does nothing yet; `open` it to write, on rank 0 alone.

    Args:
        path: of the directory.
        also_to: a second place for the results, for a disk that fails.
        numbered: whether `settle` may go on to `<path>_2`, `<path>_3` ...: nobody asked for this very one.
    """

    def __init__(self, path: Path, also_to: Path | None = None, numbered: bool = False):
        self.path = path.absolute()
        self._asked = self.path
        self._numbered = numbered
        self.also_to = also_to.absolute() if also_to is not None else None
        self._lock: RunLock | None = None
        self._fresh = False
        self._contents = JournalContents()

    @property
    def job_file(self) -> Path:
        return self.path / "job.toml"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def journal_file(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def trials_file(self) -> Path:
        return self.path / "trials.csv"

    @property
    def best_model(self) -> Path:
        return self.path / "best.onnx"

    @property
    def second_best_model(self) -> Path | None:
        return self.also_to / "best.onnx" if self.also_to is not None else None

    @property
    def search_log(self) -> Path:
        return self.path / "auto_search.log"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def contents(self) -> JournalContents:
        """Of the journal, as `open` and then `adopt` found or made it."""
        return self._contents

    def open(self, fresh: bool = False) -> JournalContents:
        """Make the directory if need be, take its lock and read what an earlier session left.

        Args:
            fresh: start anew: the journal is not read, and `adopt` will remove its job's results.
        Returns:
            Contents of the journal; empty for a new job and with `fresh`.
        Raises:
            RunDirectoryError: it is no directory, not writable, in use, or holds files of the names that
                a run writes though no run wrote them.
            JournalError: the journal cannot be trusted.
        """
        self._make()
        self._lock = RunLock.acquire(self.path)
        try:
            self._require_no_foreign_outputs()
            remove_temporaries(self.path)
            self._fresh = fresh
            is_recorded = self.journal_file.exists() and not fresh
            self._contents = read_journal(self.journal_file) if is_recorded else JournalContents()
        except BaseException:
            self.close()
            raise
        return self._contents

    def settle(self, job: JobRecord) -> None:
        """Where the directory is numbered: open the first that is free or this job's.

        Raises:
            RunDirectoryError: that one is in use, or not writable.
        """
        numbers = itertools.count(2)
        while self._numbered and not self._may_take(job):
            self.close()
            self.path = self._asked.with_name(f"{self._asked.name}_{next(numbers)}")
        if self._lock is None:
            self.open(self._fresh)

    def _may_take(self, job: JobRecord) -> bool:
        """Whether nothing of another job is lost in this directory."""
        if not self.journal_file.exists():
            return not self._foreign_outputs()
        try:
            contents = read_journal(self.journal_file)
        except DisttuneError:
            return False
        return contents.job is None or not contents.n_results or not job_differences(contents.job, job)

    def adopt(self, job: JobRecord, job_text: str) -> Journal:
        """Make the directory this job's, or go on with it where it is; writes `job.toml`.

        Another job in which no trial or probe was measured gives way: it ended at a mistake that has been
        corrected since, or before it had anything to lose.

        Args:
            job: recorded as the journal's first line unless the journal has one.
            job_text: the job as resolved, TOML.
        Returns:
            The journal, open for writing.
        Raises:
            RunDirectoryError: the directory belongs to another job, or cannot be written.
        """
        assert self._lock is not None, "open() comes first"
        recorded = self._contents.job
        differences = () if recorded is None else job_differences(recorded, job)
        if recorded is None or (differences and not self._contents.n_results):
            self._begin(job)
        elif differences:
            listing = "\n".join(f"  {d}" for d in differences)
            raise RunDirectoryError(f"{self.path}: the run directory holds another job.\n{listing}\n{_MEND}")
        elif changes := semantic_changes(recorded.semantics, job.semantics):
            listing = "\n".join(f"  {change}" for change in changes)
            version = recorded.versions.get("disttune", "(unknown version)")
            raise RunDirectoryError(
                f"{self.path}: disttune {version} has measured these trials in another way than this one "
                f"would.\n{listing}\nGo on with that version. {_MEND}"
            )
        write_atomically(self.job_file, job_text)
        return Journal(self.journal_file, self._contents)

    def renew(self) -> None:
        """Renew the lock; every `lock.RENEW_S` seconds.

        Raises:
            RunDirectoryError: another process has taken the directory: write nothing more.
        """
        assert self._lock is not None, "open() comes first"
        self._lock.renew()

    def close(self) -> None:
        """Release the lock. The journal is closed before."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path}: this is a file; give a directory.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: the run directory cannot be made: {error.strerror}. "
                "Give another run directory."
            ) from error
        if self.also_to is None:
            return
        try:
            self.also_to.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.also_to}: the second directory cannot be made: {error.strerror}."
            ) from error

    def _require_no_foreign_outputs(self) -> None:
        """A run overwrites its outputs; what no run wrote is not ours to overwrite."""
        if self.journal_file.exists():
            if not is_journal(self.journal_file):
                raise RunDirectoryError(
                    f"{self.journal_file}: this is no journal of disttune, or its first line was damaged. "
                    "Give another run directory, or move the file away."
                )
            return
        if found := self._foreign_outputs():
            raise RunDirectoryError(
                f"{self.path}: {', '.join(found)} would be overwritten, and there is no journal that shows "
                "that a run wrote it. Give another run directory, or move it away."
            )

    def _foreign_outputs(self) -> list[str]:
        """Names of what a run would overwrite, in a directory without a journal."""
        results = (self.result_file, self.trials_file, self.best_model, self.search_log)
        return [path.name for path in (self.job_file, *results) if path.exists()]

    def _begin(self, job: JobRecord) -> None:
        """Put a journal of this job alone in place of what is there, after the results that went with it."""
        if self.journal_file.exists() and (self._fresh or self._contents.job is not None):
            self._remove_results()
        write_atomically(self.journal_file, encode_line(1, 1, job))
        self._contents = read_journal(self.journal_file)

    def _remove_results(self) -> None:
        """Remove what a run writes beside `job.toml` and the journal, and nothing else."""
        logs = [path for path in _entries(self.logs) if _LOG_NAME.fullmatch(path.name)]
        logs += [self.search_log]
        outputs = [self.result_file, self.trials_file, *self.path.glob("best.onnx*"), *logs]
        try:
            for path in outputs:
                if path.is_file() or path.is_symlink():
                    path.unlink()
            if self.cache.is_dir() and not self.cache.is_symlink():
                shutil.rmtree(self.cache)
        except OSError as error:
            raise RunDirectoryError(
                f"{error.filename or self.path}: cannot be removed: {error.strerror}. "
                "Give another run directory."
            ) from error


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _key_differences(recorded: dict[str, Any], current: dict[str, Any]) -> tuple[Difference, ...]:
    old, new = dict(_leaves(recorded)), dict(_leaves(current))
    names = [*old, *(name for name in new if name not in old)]
    pairs = ((name, old.get(name, "no value"), new.get(name, "no value")) for name in names)
    return tuple(Difference(name, *_shortened(a, b)) for name, a, b in pairs if a != b)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and JSON of every value inside; text that is equal for equal values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shortened(a: str, b: str) -> tuple[str, str]:
    """Two texts, from a little before the first difference on when they are long."""
    if max(len(a), len(b)) <= _SHOWN:
        return a, b
    n_equal = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, n_equal - _SHOWN // 4)
    return _window(a, start), _window(b, start)


def _window(text: str, start: int) -> str:
    before, after = "..." if start else "", "..." if len(text) > start + _SHOWN else ""
    return before + text[start : start + _SHOWN] + after
