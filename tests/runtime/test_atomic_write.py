"""A file is there whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from disttune.config.errors import RunDirectoryError
from disttune.runtime.atomic_write import write_atomically

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("data", "expected"), [("Größe\n", "Größe\n".encode()), (b"\0\xff", b"\0\xff")])
def test_text_is_utf_8_and_bytes_are_bytes(tmp_path: Path, data: str | bytes, expected: bytes):
    write_atomically(tmp_path / "x", data)
    assert (tmp_path / "x").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    write_atomically(tmp_path / "x", "old")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(RunDirectoryError, match="x: cannot be written: No space left on device"):
        write_atomically(tmp_path / "x", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


DYING = """
import os, sys
from pathlib import Path
from disttune.runtime.atomic_write import write_atomically
setattr(os, sys.argv[2], lambda *args: os._exit(9))
write_atomically(Path(sys.argv[1]), "new" * 10000)
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_write_keeps_the_old_file(tmp_path: Path, call: str):
    write_atomically(tmp_path / "x", "old")
    code = subprocess.run([sys.executable, "-c", DYING, str(tmp_path / "x"), call], cwd=ROOT).returncode
    assert (code, (tmp_path / "x").read_text()) == (9, "old")


def test_directory_without_fsync_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
