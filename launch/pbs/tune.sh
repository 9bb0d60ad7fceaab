#!/usr/bin/env bash
#PBS -N disttune
#PBS -l select=2:ncpus=4:mpiprocs=4
#PBS -l walltime=01:00:00
#PBS -r y
#PBS -j oe
#
# Run disttune on the nodes of a PBS job (OpenPBS, PBS Professional, Torque), from the folder of this checkout:
#
#   export DISTTUNE_ARGUMENTS="tune job.toml -o run"
#   qsub -v DISTTUNE_ARGUMENTS launch/pbs/tune.sh
#
# Two minutes before the walltime the job is asked to end: the journal is closed and the exit code is 75. The
# script then submits itself again (putting a job back is for operators in PBS) and goes on where it stopped;
# after the loss of a node PBS itself runs the job again (-r y).
#
# DISTTUNE_QSUB          further options for that qsub, the ones that were given to the first: "-l walltime=8:0:0"
# DISTTUNE_MOST_RESTARTS how often at most (default 100)
# DISTTUNE_HOME          the checkout, where qsub was called from another folder
# DISTTUNE_RSH           what starts a command on a node (default pbs_tmrsh where it is found, else ssh)
# DISTTUNE_VENV, DISTTUNE_MPIRUN as for launch/local.sh; the environment must be on a disk that all nodes see
set -euo pipefail

cd "${PBS_O_WORKDIR:?"submit this script: qsub -v DISTTUNE_ARGUMENTS launch/pbs/tune.sh"}"
here=${DISTTUNE_HOME:-$PBS_O_WORKDIR}
if [[ ! -f $here/launch/supervise.sh ]]; then
    echo "launch/pbs/tune.sh: $here is no checkout of disttune; set DISTTUNE_HOME" >&2
    exit 2
fi
# shellcheck source=launch/environment.sh
source "$here/launch/environment.sh"
# shellcheck source=launch/supervise.sh
source "$here/launch/supervise.sh"
make_environment mpi
read -ra arguments <<<"${DISTTUNE_ARGUMENTS:?"say what to run: DISTTUNE_ARGUMENTS=\"tune job.toml -o run\""}"

# Torque sets PBS_WALLTIME (seconds); elsewhere qstat knows
walltime=${PBS_WALLTIME:-$(qstat -f "$PBS_JOBID" 2>/dev/null | sed -n 's/^ *Resource_List.walltime = //p')}
if [[ -n $walltime ]]; then
    DISTTUNE_END_TIME=$(($(date +%s) + $(clock_seconds "$walltime")))
    export DISTTUNE_END_TIME
    notice_before_end 120
fi
if [[ -z ${DISTTUNE_RSH:-} ]] && command -v pbs_tmrsh >/dev/null; then
    export DISTTUNE_RSH=pbs_tmrsh
fi

code=0
run_on_hosts "$PBS_NODEFILE" "${arguments[@]}" || code=$?
export DISTTUNE_RESTARTS=$((${DISTTUNE_RESTARTS:-0} + 1))
if [[ $code == 75 && $DISTTUNE_RESTARTS -le ${DISTTUNE_MOST_RESTARTS:-100} ]]; then
    echo "launch/pbs/tune.sh: work is left; it is submitted again (restart $DISTTUNE_RESTARTS)"
    read -ra options <<<"${DISTTUNE_QSUB:-}"
    passed_on=$(compgen -e DISTTUNE_ | grep -v END_TIME | sort | paste -sd ,)
    qsub -v "$passed_on" "${options[@]}" "$here/launch/pbs/tune.sh"
fi
exit "$code"
