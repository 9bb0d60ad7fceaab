"""The trial process that is started before anything else."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from disttune.runtime.early_process import end_early, start_early, take_early


def test_the_job_takes_the_process_that_was_started():
    start_early()
    supervisor = take_early()
    try:
        started = supervisor.descriptors()
        supervisor.start()  # as the agent does
        assert supervisor.descriptors() == started != []
    finally:
        supervisor.close()


def test_nobody_elses_process_is_taken_twice():
    start_early()
    first, second = take_early(), take_early()
    first.close()
    assert second.descriptors() == []


def test_a_process_that_no_job_takes_is_ended():
    start_early()
    end_early()
    assert take_early().descriptors() == []


def test_a_mistake_before_the_job_leaves_no_process(tmp_path):
    """A marker in the environment finds the processes of the command."""
    marker = f"EARLY_{os.getpid()}_{time.monotonic_ns()}"
    command = [sys.executable, "-m", "disttune", "tune", str(tmp_path / "none.toml")]
    ended = subprocess.run(command, env={**os.environ, marker: "1"}, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "no such file" in ended.stderr
    assert with_variable(marker) == []


def test_starting_early_imports_neither_numpy_nor_onnx():
    code = (
        "import sys, disttune.runtime.early_process\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'pydantic', 'mpi4py') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def with_variable(name: str) -> list[Path]:
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if f"{name}=1".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process)
    return found
