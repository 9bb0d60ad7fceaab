"""The files that the user's code needs: seen while it runs, collected, and written elsewhere.

Ranks without a shared disk get them through here. `FileRecorder` sees what Python opens; a library
that opens files in C (h5py, some image readers) goes unseen: then `evaluation.files` names them.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from disttune.config.errors import DataError

_SKIPPED_FOLDERS = {"__pycache__", "site-packages", ".git"}
_active: list["FileRecorder"] = []
_hooked: list[bool] = []


class FileRecorder:
    """Records which files below a folder are read, and which modules come from there.

    A context manager that may be entered several times; `paths` adds up. Files that were opened for
    writing in the meantime are results, not inputs, and are left out; so are bytecode, installed
    packages and everything below `exclude`.

    Args:
        folder: the job's folder.
        exclude: folders or files that do not count, e.g. the run directory.
    """

    def __init__(self, folder: Path, exclude: Iterable[Path] = ()):
        self._folders = (_plain(folder), folder.resolve())
        self._prefixes = tuple(str(f).rstrip(os.sep) + os.sep for f in self._folders)
        self._exclude = tuple(e for p in exclude for e in (_plain(p), p.resolve()))
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._modules: set[str] = set()

    def __enter__(self) -> Self:
        if not _hooked:  # an audit hook cannot be removed: one for all recorders, idle without any
            sys.addaudithook(_on_audit_event)
            _hooked.append(True)
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        for module in list(sys.modules.values()):
            name = getattr(module, "__file__", None)
            if isinstance(name, str) and name.startswith(self._prefixes):
                self._modules.add(name)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Regular files below the folder, absolute and sorted."""
        seen = (Path(name) for name in (self._read - self._written) | self._modules)
        return tuple(sorted(p for p in seen if self._counts(p)))

    def opened(self, file: Any, mode: Any, flags: Any) -> None:
        """Take note of one `open`: the arguments of the audit event."""
        if not isinstance(file, str | bytes | os.PathLike):
            return
        name = str(_plain(os.fsdecode(file)))
        if name.startswith(self._prefixes):
            (self._written if _writes(mode, flags) else self._read).add(name)

    def _counts(self, path: Path) -> bool:
        folder = next(f for f in self._folders if path.is_relative_to(f))
        if _SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts):
            return False
        return path.is_file() and not any(path.is_relative_to(e) for e in self._exclude)


def collect_files(
    code_files: Iterable[Path],
    recorded: Iterable[Path],
    asked: Sequence[Path] | None,
    folder: Path,
    max_bytes: int = 2**30,
) -> dict[str, bytes]:
    """Contents of the files that the user's code needs on every node.

    Args:
        code_files: always included.
        recorded: what a `FileRecorder` saw; included when nothing was asked for.
        asked: `evaluation.files`: files, folders (with all below) or globs, all below `folder`; None
            when the user left it out.
        folder: of the job file.
        max_bytes: limit for what was not asked for.
    Returns:
        Contents by path relative to `folder`, sorted.
    Raises:
        DataError: a file lies outside of the folder, what was asked for does not exist, or the files seen
            are larger than `max_bytes`.
    """
    paths = set(code_files)
    if asked is None:
        paths |= set(recorded)
    for path in asked or ():
        paths |= _matching(folder / path, folder)
    named = {_relative(path, folder): path for path in paths}
    sizes = {name: path.stat().st_size for name, path in named.items()}
    total = sum(sizes.values())
    if total > max_bytes and asked is None:
        largest = max(sizes, key=lambda name: sizes[name])
        raise DataError(
            f"the evaluation code read {len(sizes)} files of {_mib(total)} below {folder} (the largest is "
            f"{largest}, {_mib(sizes[largest])}); more than {_mib(max_bytes)} are not copied to other nodes "
            'unasked: name what they need in "evaluation.files"'
        )
    return {name: named[name].read_bytes() for name in sorted(named)}


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write collected files below a directory, which is made if missing.

    Raises:
        DataError: a name is absolute, has "..", or leads out of the directory; nothing is written.
    """
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise DataError(f'file name "{name}" does not stay below the directory it is written to')
        if not (directory / path).resolve().is_relative_to(directory.resolve()):
            raise DataError(f'file name "{name}" leads out of {directory} through a link')
    for name, content in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _on_audit_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _active:
        return
    for recorder in tuple(_active):
        try:
            recorder.opened(*arguments)
        except Exception:  # an exception here would make the user's `open` fail
            continue


def _writes(mode: Any, flags: Any) -> bool:
    """Whether an `open` makes the file; "r+" reads what was there."""
    if isinstance(mode, str):
        return bool(set(mode) & set("wax"))
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC))


def _matching(path: Path, folder: Path) -> set[Path]:
    pattern = _relative(path, folder)
    found = [path] if path.exists() else list(folder.glob(pattern))
    if not found:
        raise DataError(f'evaluation.files: there is no "{pattern}" below {folder}')
    inside = [p for f in found for p in ([f] if f.is_file() else f.rglob("*"))]
    return {p for p in inside if p.is_file() and not _SKIPPED_FOLDERS.intersection(p.parts)}


def _relative(path: Path, folder: Path) -> str:
    for root in (_plain(folder), folder.resolve()):
        if _plain(path).is_relative_to(root):
            return _plain(path).relative_to(root).as_posix()
    raise DataError(
        f"{path} lies outside of the job's folder {folder}: it cannot be copied to other nodes; move it below"
    )


def _plain(path: str | Path) -> Path:
    """Absolute and without "..", but with its links: a data folder is often a link to another disk."""
    return Path(os.path.normpath(Path(path).absolute()))


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.0f} MiB"
