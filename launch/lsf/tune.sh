#!/usr/bin/env bash
#BSUB -J disttune
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -W 1:00
#BSUB -wa USR1
#BSUB -wt 2
#BSUB -Q "75"
#BSUB -r
#BSUB -o disttune-%J.log
#
# Run disttune on the hosts of an LSF job, from the folder of this checkout:
#
#   export DISTTUNE_ARGUMENTS="tune job.toml -o run"
#   bsub < launch/lsf/tune.sh
#
# Two minutes before the run limit LSF sends USR1 (-wa, -wt): the journal is closed and the exit code is 75. LSF
# then puts the job back into its queue (-Q 75), and does so after the loss of a host (-r); it goes on where it
# stopped.
#
# DISTTUNE_HOME          the checkout, where bsub was called from another folder
# DISTTUNE_RSH           what starts a command on a host (default blaunch where it is found, else ssh)
# DISTTUNE_VENV, DISTTUNE_MPIRUN as for launch/local.sh; the environment must be on a disk that all hosts see
set -euo pipefail

here=${DISTTUNE_HOME:-${LS_SUBCWD:?"submit this script: bsub < launch/lsf/tune.sh"}}
if [[ ! -f $here/launch/supervise.sh ]]; then
    echo "launch/lsf/tune.sh: $here is no checkout of disttune; set DISTTUNE_HOME" >&2
    exit 2
fi
cd "$LS_SUBCWD"
# shellcheck source=launch/environment.sh
source "$here/launch/environment.sh"
# shellcheck source=launch/supervise.sh
source "$here/launch/supervise.sh"
make_environment mpi
read -ra arguments <<<"${DISTTUNE_ARGUMENTS:?"say what to run: DISTTUNE_ARGUMENTS=\"tune job.toml -o run\""}"

# LSF tells what is left of the run limit as "0:59 L" (hours, minutes)
if [[ $(bjobs -noheader -o time_left "$LSB_JOBID" 2>/dev/null || true) =~ ^([0-9]+):([0-9]+) ]]; then
    DISTTUNE_END_TIME=$(($(date +%s) + 60 * (60 * 10#${BASH_REMATCH[1]} + 10#${BASH_REMATCH[2]})))
    export DISTTUNE_END_TIME
fi
if [[ -z ${DISTTUNE_RSH:-} ]] && command -v blaunch >/dev/null; then
    export DISTTUNE_RSH=blaunch
fi

code=0
run_on_hosts "$LSB_DJOB_HOSTFILE" "${arguments[@]}" || code=$?
exit "$code"
