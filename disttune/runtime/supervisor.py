"""The supervisor of one trial process: starts it, talks to it, watches time and memory, ends it.

The trial process runs the user's code and onnxruntime; a segfault, hang or out-of-memory there ends only
that process. It is started with `subprocess` (never by forking a process that has MPI loaded and goes
on), without MPI's environment variables, in a process group of its own so that children of an evaluation
end with it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttune.quantize.devices import DEVICE_VARIABLE
from disttune.runtime.local_rank import local_rank
from disttune.runtime.pipe import Pipe, PipeClosedError
from disttune.runtime.scratch import make_folder, remove_abandoned
from disttune.runtime.trial_output import TrialOutput

MPI_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "MPI_", "MPICH_", "I_MPI_", "HYDRA_", "MV2_")
# Huge pages for large blocks, where the system has them: onnxruntime copies each tensor that a session is
# handed and lets go of the copy, and in small pages a copy of 47 MB costs 20 ms of page faults.
MALLOC = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
# One thread for BLAS: LAPACK on one and two threads gives different bits, and every rank must agree.
OUT_OF_MEMORY = (
    "out_of_memory",
    "the kernel ended the trial process: the memory of this node, or of its batch job, ran out. Use fewer "
    "ranks a node, or evaluate less at a time",
)
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Death:
    """How a trial process ended.

    Args:
        status: "crashed", "timeout" or "out_of_memory".
        reason: for the user.
        stderr_tail: the last lines it wrote.
    """

    status: str
    reason: str
    stderr_tail: str


class Supervisor:
    """Owner of one trial process; `start` it again after it has died.

    Args:
        memory_limit_bytes: on anonymous memory (the mapped replica does not count), or None.
    """

    def __init__(self, memory_limit_bytes: int | None = None):
        self.memory_limit_bytes = memory_limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._oom_kills = 0  # of the kernel, when the process was started
        self._pipe: Pipe | None = None
        self._output = TrialOutput()
        self._temporary: Path | None = None  # what it leaves there when it is ended goes with it

    def start(self) -> None:
        """Start the process, unless it has been started and not ended since."""
        if self._process is not None:
            return
        with contextlib.suppress(OSError):  # no room: it says so itself, when it needs some
            self._temporary = make_folder()
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "disttune.runtime.trial_process",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        self._oom_kills = kernel_oom_kills()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=trial_environment(self._temporary),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        assert self._process.stdout is not None
        self._output.open(self._process.stdout)
        self._pipe = Pipe(ours)

    def descriptors(self) -> list[int]:
        """What becomes readable when the process says or writes something."""
        return [] if self._pipe is None else [self._pipe.fileno(), *self._output.descriptors()]

    def send(self, message: object) -> None:
        """Hand a message to the process; if it is gone, `poll` will say so."""
        assert self._pipe is not None
        with contextlib.suppress(PipeClosedError):
            self._pipe.send(message)

    def poll(self) -> tuple[list[Any], Death | None]:
        """Messages that arrived, and how the process ended if it did."""
        if self._process is None or self._pipe is None:
            return [], None
        self._output.read()
        try:
            messages = self._pipe.receive()
        except PipeClosedError:
            return [], self._dead()
        if messages:  # what they lead to may need the process
            return messages, None
        if self._process.poll() is not None:  # a child that it forked may hold the pipe open
            return [], self._dead()
        if self._over_memory():
            return [], self.kill("out_of_memory", self._memory_reason())
        return [], None

    def kill(self, status: str, reason: str) -> Death:
        """End the process and everything it started."""
        self._end_group()
        death = Death(status, reason, self._output.tail())
        self._forget()
        return death

    def take_log(self) -> str:
        """What the process has written since the last call."""
        return self._output.take_log()

    def mark_tail(self) -> None:
        """Start a new trial: lines before this one do not belong to it."""
        self._output.forget_tail()

    def tail(self) -> str:
        return self._output.tail()

    def close(self) -> None:
        if self._process is not None:
            self.kill("crashed", "closed")
        remove_abandoned()

    def _dead(self) -> Death:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)  # the pipe closes a moment before the process is gone
        code = self._process.poll()
        is_out_of_memory = code == -signal.SIGKILL and kernel_oom_kills() > self._oom_kills
        return self.kill(*(OUT_OF_MEMORY if is_out_of_memory else _explain(code)))

    def _end_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _forget(self) -> None:
        assert self._pipe is not None
        self._output.close()
        self._pipe.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._process = self._pipe = self._temporary = None

    def _over_memory(self) -> bool:
        return self.memory_limit_bytes is not None and self._anonymous_bytes() > self.memory_limit_bytes

    def _anonymous_bytes(self) -> int:
        assert self._process is not None
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def _memory_reason(self) -> str:
        limit = (self.memory_limit_bytes or 0) / 2**20
        return f"used more than tuning.memory_limit = {limit:.0f} MiB: raise it, or evaluate less at a time"


def trial_environment(temporary: Path | None = None) -> dict[str, str]:
    """The environment of a trial process: no variables of MPI, one thread for BLAS, huge pages,
    the number of its accelerator.

    Args:
        temporary: folder for its temporary files; None leaves them in the usual place.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(MPI_PREFIXES)}
    own = {"TMPDIR": str(temporary)} if temporary else {}
    own[DEVICE_VARIABLE] = kept.get(DEVICE_VARIABLE, str(local_rank()))
    if HUGE_PAGES.partition("=")[0] not in kept.get(MALLOC, ""):  # what the user says goes
        own[MALLOC] = ":".join(filter(None, (kept.get(MALLOC), HUGE_PAGES)))
    return kept | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONUNBUFFERED": "1"} | own


def kernel_oom_kills(file: Path = Path("/proc/vmstat")) -> int:
    """How many processes of this machine the kernel has ended for want of memory."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _explain(code: int | None) -> tuple[str, str]:
    if code is None:
        return "crashed", "the trial process closed its pipe"
    if code == -signal.SIGKILL:
        return (
            "crashed",
            "the trial process was killed (signal SIGKILL)",
        )
    if code < 0:
        return "crashed", f"the trial process ended by signal {signal.Signals(-code).name}"
    return "crashed", f"the trial process ended itself with exit code {code}"
