# shellcheck shell=bash
# Runs the ranks under mpirun or srun: signals are passed on, exit codes are those of disttune. Sourced, not run.
# Expects $venv (launch/environment.sh).

is_asked= # to end, before there are ranks
trap 'is_asked=1' USR1

# prepare_mpirun RANKS: sets the command mpirun=(...), and what it wants to be told before it runs as root. No
# binding: every rank takes its share of the cores by itself.
prepare_mpirun() {
    if [[ $(id -u) == 0 ]]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export PRTE_MCA_hwloc_default_binding_policy=none
    mpirun=("${DISTTUNE_MPIRUN:-$venv/bin/mpirun}")
    # With ULFM the others go on when a rank's process ends. Open MPI has it from version 5 on, where it was
    # built so; it is tried once, on this host alone, because "mpirun --help" does not tell.
    if [[ $1 -gt 1 ]] && env -u SLURM_JOB_ID -u SLURM_JOBID -u PBS_JOBID -u PBS_ENVIRONMENT -u LSB_JOBID \
        "${mpirun[@]}" --with-ft ulfm -np 1 true </dev/null >/dev/null 2>&1; then
        mpirun+=(--with-ft ulfm)
    fi
}

# run_ranks [LAUNCHER ...] -- [ARGUMENTS ...]: run "LAUNCHER ... python -m disttune ARGUMENTS ..." to its end.
# Returns 0, 2, 3, 4, 75 or 130 as `disttune tune` does. When the launcher was ended (its codes 1, 137, 143 ...)
# with work left in the journal, it is 75: the same command goes on where it stopped.
#
# mpirun leaves its ranks a quarter of a second after TERM, so it is asked with USR1, which it and srun pass on:
# rank 0 then ends in order, within its grace time. A second INT ends at once.
run_ranks() {
    local launcher=() code
    while [[ $1 != -- ]]; do
        launcher+=("$1")
        shift
    done
    shift
    [[ -z $is_asked ]] || return 75
    interrupts=0
    set -m # a process group of its own, so that Ctrl-C reaches the launcher through us alone
    "${launcher[@]}" "$venv/bin/python" -m disttune "$@" &
    child=$!
    set +m
    trap 'ask_to_end INT' INT
    trap 'ask_to_end TERM' TERM USR1 HUP
    [[ -z $is_asked ]] || ask_to_end TERM
    while :; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # a trap cut the wait short: the launcher still runs
    done
    trap - INT TERM HUP
    trap '' USR1 # a late one must not end what is left to do
    [[ -z ${notice:-} ]] || kill -- "-$notice" 2>/dev/null || true
    if [[ $interrupts -gt 1 && $code -ge 128 ]]; then
        return 130
    fi
    if [[ $code == 0 && -n $is_asked ]]; then
        code=138 # as if ended by USR1: mpirun says 0 when it was asked before it had started ranks
    fi
    case $code in
        0) # with ULFM also when all ranks were killed
            [[ " ${launcher[*]} " == *" --with-ft "* ]] || return 0
            ;;
        2 | 3 | 4 | 75 | 130) return "$code" ;;
        126 | 127 | 213) return "$code" ;; # the launcher could not be started
    esac
    "$venv/bin/python" -m disttune exit-code "$code" -- "$@"
}

# run_on_hosts HOSTS [ARGUMENTS ...]: the same on the hosts of a file, or "host1:8,host2:8", by ssh or
# $DISTTUNE_RSH.
run_on_hosts() {
    local where=(--host "$1") name
    [[ ! -f $1 ]] || where=(--hostfile "$1")
    shift
    if [[ -n ${DISTTUNE_RSH:-} ]]; then
        export PRTE_MCA_plm_ssh_agent=$DISTTUNE_RSH OMPI_MCA_plm_rsh_agent=$DISTTUNE_RSH # Open MPI 5, 4
    fi
    prepare_mpirun 2 # or more
    for name in DISTTUNE_END_TIME OMP_NUM_THREADS; do # a daemon on another host does not have them
        [[ -z ${!name:-} ]] || where+=(-x "$name")
    done
    run_ranks "${mpirun[@]}" "${where[@]}" --map-by slot -- "$@"
}

ask_to_end() {
    is_asked=1
    [[ $1 != INT ]] || interrupts=$((interrupts + 1))
    if [[ $interrupts -gt 1 ]]; then
        kill -TERM "$child" 2>/dev/null || true
    else
        kill -USR1 "$child" 2>/dev/null || true
    fi
}

# notice_before_end SECONDS: send ourselves USR1 that long before $DISTTUNE_END_TIME (seconds since 1970), where
# the scheduler does not.
notice_before_end() {
    local left=$((DISTTUNE_END_TIME - $(date +%s) - $1))
    set -m # a process group of its own: its sleep is ended with it
    (
        for ((; left > 0; left--)); do
            sleep 1
            kill -0 $$ 2>/dev/null || exit 0
        done
        kill -USR1 $$ 2>/dev/null || true
    ) >/dev/null 2>&1 </dev/null &
    set +m
    notice=$!
}

# clock_seconds [[DAYS-]HOURS:]MINUTES:SECONDS: as seconds.
clock_seconds() {
    local text=$1 days=0 total=0 part
    if [[ $text == *-* ]]; then
        days=${text%%-*} text=${text#*-}
    fi
    local IFS=:
    for part in $text; do
        total=$((total * 60 + 10#$part))
    done
    echo $((days * 86400 + total))
}
