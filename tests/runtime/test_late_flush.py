"""Flushing when the job has ended; what the disk says is `os.fsync`'s business."""

import errno
import os
from pathlib import Path

import pytest

from disttune.runtime.late_flush import flush_soon


def test_every_file_and_its_folder_are_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda d: flushed.append(str(Path(f"/proc/self/fd/{d}").readlink())))
    paths = [tmp_path / "best.onnx", tmp_path / "best.onnx.data"]
    for path in paths:
        path.write_bytes(b"model")
    flush_soon(paths).join()
    assert flushed == [str(paths[0]), str(tmp_path), str(paths[1]), str(tmp_path)]


def test_the_process_waits_for_it():
    assert not flush_soon([]).daemon


def test_a_disk_that_refuses_is_told(tmp_path, monkeypatch, capfd: pytest.CaptureFixture[str]):
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "best.onnx").write_bytes(b"model")
    monkeypatch.setattr(os, "fsync", fail)
    flush_soon([tmp_path / "best.onnx"]).join()
    told = capfd.readouterr().err
    assert told == f"warning: {tmp_path}/best.onnx may not be on the disk: Input/output error\n"
