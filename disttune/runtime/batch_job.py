"""When the batch job that this process runs in will be ended by its batch system."""

import os
from collections.abc import Mapping

from disttune.config.errors import InputError

OWN_VARIABLE = "DISTTUNE_END_TIME"  # for batch systems that do not tell
SLURM_VARIABLE = "SLURM_JOB_END_TIME"
RESERVE_S = 15.0  # before that end, for the last results and the best model to be written


def batch_end_at(environ: Mapping[str, str] = os.environ) -> float | None:
    """The end in seconds since 1970 (UTC); None outside of a batch job, or where its end is not told.

    Only Slurm tells its jobs (since version 22.05). PBS, LSF, Grid Engine and Flux do not: the job's script
    sets `DISTTUNE_END_TIME`, which goes before what Slurm says.

    Raises:
        InputError: `DISTTUNE_END_TIME` is no time.
    """
    own = environ.get(OWN_VARIABLE, "").strip()
    if own:
        if not own.isdigit():
            raise InputError(
                f'{OWN_VARIABLE} = "{own}": expected seconds since 1970, for a limit of one hour '
                f"export {OWN_VARIABLE}=$(( $(date +%s) + 3600 )) at the top of the batch script"
            )
        return float(own)
    slurm = environ.get(SLURM_VARIABLE, "").strip()
    return float(slurm) if slurm.isdigit() and int(slurm) > 0 else None
