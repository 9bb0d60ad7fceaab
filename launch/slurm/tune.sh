#!/usr/bin/env bash
#SBATCH --job-name=disttune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=disttune-%j.log
#
# Run disttune on the nodes of a Slurm job, from the folder of this checkout:
#
#   sbatch launch/slurm/tune.sh tune job.toml -o run
#   sbatch --nodes=4 --time=08:00:00 launch/slurm/tune.sh tune job.toml -o run
#   sbatch --array=1-3 launch/slurm/tune.sh --lines jobs.txt     one job for each line of a file, which holds
#                                                              its arguments: "tune resnet.toml -o resnet"
# Two minutes before the time limit the job is asked to end: the journal is closed and the exit code is 75. The
# job is then put back into the queue and goes on where it stopped. `scancel --batch --signal=USR1 JOB` does the
# same at once. After the loss of a node Slurm itself puts it back.
#
# DISTTUNE_LAUNCHER      mpirun (default; starts one daemon a node through Slurm), or srun where Slurm has the
#                        PMI of the MPI in use (srun --mpi=list)
# DISTTUNE_SRUN_MPI      for srun: --mpi=... (default pmix)
# DISTTUNE_MOST_RESTARTS how often at most it goes back into the queue (default 100)
# DISTTUNE_HOME          the checkout, where sbatch was called from another folder
# DISTTUNE_VENV, DISTTUNE_MPIRUN as for launch/local.sh; the environment must be on a disk that all nodes see
set -euo pipefail

here=${DISTTUNE_HOME:-${SLURM_SUBMIT_DIR:?"submit this script: sbatch launch/slurm/tune.sh COMMAND ..."}}
if [[ ! -f $here/launch/supervise.sh ]]; then
    echo "launch/slurm/tune.sh: $here is no checkout of disttune; set DISTTUNE_HOME" >&2
    exit 2
fi
# shellcheck source=launch/environment.sh
source "$here/launch/environment.sh"
# shellcheck source=launch/supervise.sh
source "$here/launch/supervise.sh"
make_environment mpi

arguments=("$@")
if [[ ${1:-} == --lines ]]; then
    line=$(sed -n "${SLURM_ARRAY_TASK_ID:?"--lines needs sbatch --array=1-N"}p" "$2")
    if [[ -z $line ]]; then
        echo "launch/slurm/tune.sh: $2 has no line $SLURM_ARRAY_TASK_ID" >&2
        exit 2
    fi
    read -ra arguments <<<"$line"
fi

# Slurm from 23.02 on sets SLURM_JOB_END_TIME itself
end=${SLURM_JOB_END_TIME:-$(squeue --noheader --job "$SLURM_JOB_ID" --format %e 2>/dev/null || true)}
if [[ $end =~ ^[0-9]+$ ]]; then
    export DISTTUNE_END_TIME=$end
elif [[ $end == *T* ]]; then
    DISTTUNE_END_TIME=$(date --date "$end" +%s)
    export DISTTUNE_END_TIME
fi

case ${DISTTUNE_LAUNCHER:-mpirun} in
    mpirun)
        prepare_mpirun "$SLURM_NTASKS"
        launcher=("${mpirun[@]}" -np "$SLURM_NTASKS" --map-by slot --bind-to none)
        ;;
    srun) launcher=(srun "--mpi=${DISTTUNE_SRUN_MPI:-pmix}" --cpu-bind=none --kill-on-bad-exit=0) ;;
    *)
        echo "launch/slurm/tune.sh: DISTTUNE_LAUNCHER is \"$DISTTUNE_LAUNCHER\"; mpirun and srun are known" >&2
        exit 2
        ;;
esac

code=0
run_ranks "${launcher[@]}" -- "${arguments[@]}" || code=$?
restarts=${SLURM_RESTART_COUNT:-0}
if [[ $code == 75 && $restarts -lt ${DISTTUNE_MOST_RESTARTS:-100} ]]; then
    echo "launch/slurm/tune.sh: work is left; job $SLURM_JOB_ID goes back into the queue (restart $((restarts + 1)))"
    scontrol requeue "$SLURM_JOB_ID" || true # after the loss of a node Slurm has done so itself
fi
exit "$code"
