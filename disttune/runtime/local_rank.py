"""This rank's number among those of its node."""

import os
from collections.abc import Mapping

# Open MPI, MPICH and its kin, MVAPICH, Slurm's srun, PALS, Flux
LOCAL_RANK_VARIABLES = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
)


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This rank's number among those of its node, as launchers tell it; 0 where none does."""
    told = (environment.get(name, "") for name in LOCAL_RANK_VARIABLES)
    return next((int(text) for text in told if text.isdigit()), 0)
