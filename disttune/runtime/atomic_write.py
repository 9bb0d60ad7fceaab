"""Files that are there whole or not at all, whatever ends the process or the machine."""

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from disttune.config.errors import RunDirectoryError

_TEMPORARY = re.compile(r"\..+\.disttune-[0-9a-f]{8}")
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # file systems that have no fsync for directories


def write_atomically(path: Path, data: bytes | str) -> None:
    """Put a file in place of what is there, with the permissions that the umask gives.

    Args:
        path: a reader sees its old content or the new one, never a part.
        data: text is written as UTF-8.
    Raises:
        RunDirectoryError: it could not be written; what was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.disttune-{secrets.token_hex(4)}")
    try:
        write_new(temporary, data.encode() if isinstance(data, str) else data)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise RunDirectoryError(
            f"{path}: cannot be written: {reason}. Make room or check permissions, "
            "then run the same command again."
        ) from error


def write_new(path: Path, data: bytes) -> None:
    """Make a file that must not exist yet and wait until the disk has it; `OSError` otherwise."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the directory's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path) -> None:
    """Remove what `write_atomically` left when its process was killed. Only the lock's holder may."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
