"""Joining the world: MPI when a launcher started us, else this one process.

Two MPI libraries that do not know each other make N worlds of one rank: every rank would tune the whole
job. That is recognised by what the launcher left in the environment, and refused.
"""

import os
import sys
import time
from collections.abc import Mapping

from disttune.config.errors import DisttuneError, InputError
from disttune.runtime.leaving import see_off
from disttune.runtime.start_watch import ended_after
from disttune.runtime.transport import Transport
from disttune.runtime.transport.local import LocalTransport

# What launchers set to the number of ranks: Open MPI, MPICH and its kin, Slurm's srun.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
LAUNCHED_VARIABLES = (*SIZE_VARIABLES, "PMIX_RANK", "PMI_RANK")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
START_VARIABLE = "DISTTUNE_START_TIMEOUT"
START_S = 300.0  # for MPI to start on all ranks
FIRST_SPEAKS_S = 5.0  # a launcher kills the others when one rank ends
OTHERS_END_S = 0.5  # what a rank needs from MPI_Finalize to its end


class StartError(DisttuneError):
    """The ranks did not find each other; nothing is lost."""

    exit_code = 75


def start_timeout_s() -> float:
    """How long the ranks may take to find each other; from `DISTTUNE_START_TIMEOUT` (seconds).

    Raises:
        InputError: it is no number above 0.
    """
    text = os.environ.get(START_VARIABLE, "")
    try:
        seconds = float(text or START_S)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise InputError(f'{START_VARIABLE} = "{text}": expected seconds, more than 0')
    return seconds


def is_about_a_lost_rank(error: Exception) -> bool:
    """Whether it is MPI's word for a process that has failed."""
    return "PROC_FAILED" in str(error) or "ERR_REVOKED" in str(error)


def launched_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks a launcher says there are; 0 when none started this process."""
    sizes = [environment.get(name, "") for name in SIZE_VARIABLES]
    known = [int(size) for size in sizes if size.isdigit()]
    if known:
        return max(known)
    return 1 if any(name in environment for name in LAUNCHED_VARIABLES) else 0


def join_world() -> Transport:
    """The transport of this process.

    Raises:
        InputError: a launcher started several ranks, but MPI is missing or is another launcher's.
        StartError: a rank was lost meanwhile.
    """
    n_launched = launched_ranks()
    if n_launched == 0:
        return LocalTransport()
    try:
        from disttune.runtime.transport.mpi import MpiTransport

        with ended_after(*_start_limit(), StartError.exit_code):
            transport = MpiTransport()
    except (ImportError, RuntimeError) as error:
        if is_about_a_lost_rank(error):
            raise StartError(
                f"a rank was lost while MPI started ({error}); run the same command again"
            ) from error
        if n_launched == 1:
            return LocalTransport()
        raise InputError(
            f"a launcher started {n_launched} ranks, but mpi4py finds no MPI library ({error}): install one, "
            'for example with pip install "disttune[mpi]", and use its mpirun'
        ) from error
    if transport.size == 1 and n_launched > 1:
        raise InputError(
            f"a launcher started {n_launched} ranks, but each is a world of its own: mpirun (or srun) and "
            f"the MPI library of mpi4py ({_library()}) are of different MPIs. Start with that library's own "
            "mpirun (launch/local.sh does), or set MPI4PY_LIBMPI to the library of the launcher."
        )
    return transport


def has_joined() -> bool:
    """Whether this process has begun to use MPI."""
    return "mpi4py.MPI" in sys.modules


def leave_world(code: int) -> None:
    """End MPI; the last thing a process does. Rank 0 with a code other than 0 ends after the others.

    A launcher that sees a process end with such a code while others run kills those and says so.
    """
    if not has_joined():
        return
    from mpi4py import MPI

    from disttune.runtime.transport.mpi import survives_loss

    if MPI.Is_finalized():
        return
    if survives_loss():
        see_off()
    else:
        MPI.Finalize()
    if code != 0:
        time.sleep(OTHERS_END_S)


def _start_limit() -> tuple[float, str]:
    """How long this rank waits for MPI to start, and what it says then: rank 0 alone speaks, and first."""
    seconds = start_timeout_s()
    if next((os.environ[name] != "0" for name in RANK_VARIABLES if name in os.environ), False):
        return seconds + FIRST_SPEAKS_S, ""
    return seconds, (
        f"MPI has not started on all {launched_ranks()} ranks after {seconds:g} s: one has died, or its node "
        f"hangs. Nothing is lost: run the same command again ({START_VARIABLE} sets how long to wait)"
    )


def _library() -> str:
    from mpi4py import MPI

    return MPI.Get_library_version().split(",")[0].split("\n")[0].strip()
