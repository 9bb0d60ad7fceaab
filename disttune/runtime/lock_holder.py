"""Who holds the lock of a run directory, and when that one may be passed over."""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

SILENCE_S = 120.0  # without renewal, after which a holder on another machine counts as gone
_BATCH_VARIABLES = (  # system, job id, what tells apart jobs with the same id
    ("slurm", "SLURM_JOB_ID", "SLURM_CLUSTER_NAME"),
    ("pbs", "PBS_JOBID", ""),
    ("lsf", "LSB_JOBID", "LSB_JOBINDEX"),
    ("flux", "FLUX_JOB_ID", ""),
    ("fujitsu", "PJM_JOBID", ""),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, or wants to.

    Args:
        host: its name.
        boot_id: of the running kernel; "" where it is not told.
        pid_namespace: process ids of two containers do not compare; "" where it is not told.
        pid: process id.
        started_ticks: when the process was started, in clock ticks since boot; 0 where it is not told.
        batch_job: batch system and job id, or "".
        token: of one taking of the lock; drawn by `RunLock`.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started_ticks: int
    batch_job: str
    token: str = ""

    def same_machine(self, other: Self) -> bool:
        """Whether the process ids of both mean the same processes."""
        return (self.host, self.boot_id, self.pid_namespace) == (
            other.host,
            other.boot_id,
            other.pid_namespace,
        )

    def with_new_token(self) -> Self:
        return replace(self, token=secrets.token_hex(8))

    def __str__(self) -> str:
        batch = f" ({self.batch_job})" if self.batch_job else ""
        return f"process {self.pid} on {self.host}{batch}"


def this_process(environ: Mapping[str, str] = os.environ) -> Holder:
    """The calling process."""
    status = _read_status(os.getpid())
    return Holder(
        host=socket.gethostname(),
        boot_id=_read_or_empty("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_link_or_empty("/proc/self/ns/pid"),
        pid=os.getpid(),
        started_ticks=status.started_ticks if status else 0,
        batch_job=batch_job(environ),
    )


def batch_job(environ: Mapping[str, str]) -> str:
    """Batch system and job id, e.g. "slurm 4711", as the environment tells; "" outside of a batch job."""
    for system, job_variable, other_variable in _BATCH_VARIABLES:
        job = environ.get(job_variable, "")
        if job:
            return " ".join(part for part in (system, job, environ.get(other_variable, "")) if part)
    return ""


def may_take_over(holder: Holder, taker: Holder, *, alive: bool, silent_s: float) -> bool:
    """Whether a lock may be taken from its holder.

    1. On the same machine the process table decides.
    2. From the taker's own batch job it may: a batch job runs this command once, on one set of hosts.
    3. Otherwise silence decides.

    Args:
        alive: whether the holder's process lives; counts in case 1 only.
        silent_s: seconds since the last renewal, by the file system's clock.
    """
    if holder.same_machine(taker):
        return not alive
    if holder.batch_job and holder.batch_job == taker.batch_job:
        return True
    return silent_s >= SILENCE_S


def process_alive(pid: int, started_ticks: int) -> bool:
    """Whether this very process runs: not another one with its id, and no zombie."""
    status = _read_status(pid)
    if status is None:  # gone, or hidden from us
        return _exists(pid)
    if started_ticks and status.started_ticks != started_ticks:
        return False
    return not (status.state in "ZX" and status.n_threads <= 1)


def process_stopped(pid: int, started_ticks: int) -> bool:
    """Whether this very process is stopped (SIGSTOP)."""
    status = _read_status(pid)
    return status is not None and status.started_ticks == started_ticks and status.state in "Tt"


def parse_holder(data: bytes) -> Holder | None:
    """Read a holder's JSON; None when it is none."""
    try:
        values = json.loads(data)
        holder = Holder(**{f.name: values[f.name] for f in fields(Holder)})
    except (ValueError, TypeError, KeyError):
        return None
    texts = (holder.host, holder.boot_id, holder.pid_namespace, holder.batch_job, holder.token)
    numbers = (holder.pid, holder.started_ticks)
    if not all(isinstance(v, str) for v in texts) or not all(type(v) is int for v in numbers):
        return None
    return holder if holder.pid > 0 and holder.token.isalnum() else None


@dataclass(frozen=True, slots=True)
class _ProcessStatus:
    state: str
    n_threads: int
    started_ticks: int


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _read_status(pid: int) -> _ProcessStatus | None:
    """State of a process as /proc tells it (proc(5): the name in brackets may hold anything)."""
    values = _read_or_empty(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(values) < 20:
        return None
    return _ProcessStatus(state=values[0], n_threads=int(values[17]), started_ticks=int(values[19]))


def _read_or_empty(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _link_or_empty(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
