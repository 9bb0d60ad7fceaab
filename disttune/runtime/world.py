"""Joining the world: MPI when a launcher started us, else this one process.

Two MPI libraries that do not know each other make N worlds of one rank: every rank would tune the whole
job. That is recognised by what the launcher left in the environment, and refused.
"""

import os
import sys
import time
from collections.abc import Mapping

from disttune.config.errors import InputError
from disttune.runtime.transport import Transport
from disttune.runtime.transport.local import LocalTransport

# What launchers set to the number of ranks: Open MPI, MPICH and its kin, Slurm's srun.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
LAUNCHED_VARIABLES = (*SIZE_VARIABLES, "PMIX_RANK", "PMI_RANK")
OTHERS_END_S = 0.5  # what a rank needs from MPI_Finalize to its end


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
    """
    n_launched = launched_ranks()
    if n_launched == 0:
        return LocalTransport()
    try:
        from disttune.runtime.transport.mpi import MpiTransport

        transport = MpiTransport()
    except (ImportError, RuntimeError) as error:
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
    if not survives_loss():
        MPI.Finalize()
    if code != 0:
        time.sleep(OTHERS_END_S)


def _library() -> str:
    from mpi4py import MPI

    return MPI.Get_library_version().split(",")[0].split("\n")[0].strip()
