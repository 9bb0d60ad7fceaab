"""The end of a job on a node: no agent is left behind that is stopped; mpirun would wait for it for ever.

One that is stopped (by a debugger, a batch system, a user) when the search is over is missed by nobody, so
the first and the last rank of each node look after the others.
"""

import contextlib
import os
import signal
import time

from disttune.runtime.lock_holder import process_alive, process_stopped
from disttune.runtime.messages import ProcessId

LONGEST_S = 30.0  # of waiting for the others
LOOK_S = 0.02
_beside: list[ProcessId] = []


def see_off_later(processes: tuple[ProcessId, ...]) -> None:
    """Remember agents of this node that end with this one; those that are stopped now end at once."""
    _beside[:] = processes
    _end_stopped()


def see_off(longest_s: float = LONGEST_S) -> None:
    """Wait until they have ended, and end those that are stopped meanwhile; the last thing a process does."""
    until_s = time.monotonic() + longest_s
    while _beside and time.monotonic() < until_s:
        _end_stopped()
        time.sleep(LOOK_S)
        _beside[:] = [p for p in _beside if process_alive(p.pid, p.started_ticks)]


def _end_stopped() -> None:
    for process in _beside:
        if process_stopped(process.pid, process.started_ticks):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
