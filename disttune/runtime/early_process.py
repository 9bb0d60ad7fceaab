"""The trial process of this rank, started before this process imports what it needs itself.

Both imports take about half a second: so they run at the same time. Imports little, and at once.
"""

from disttune.runtime.supervisor import Supervisor

_early: list[Supervisor] = []


def start_early() -> None:
    """Start a trial process for the job that this process is about to begin."""
    supervisor = Supervisor()
    supervisor.start()
    _early.append(supervisor)


def take_early() -> Supervisor:
    """The supervisor of the process that was started early, or of one that has not been started."""
    return _early.pop() if _early else Supervisor()


def end_early() -> None:
    """End a process that no job has taken: there was a mistake before it began."""
    while _early:
        _early.pop().close()
