#!/usr/bin/env bash
# Run disttune on several hosts that mpirun reaches by ssh (or by what DISTTUNE_RSH names).
#
#   launch/hosts.sh HOSTS COMMAND [ARGUMENTS ...]
#
#   launch/hosts.sh host1:8,host2:8 tune job.toml -o run     host:ranks, ...
#   launch/hosts.sh ./hostfile tune job.toml -o run          a file: "host slots=8", or a host for each rank
#
# disttune and Open MPI are at the same path on every host; the run directory, model and data need to be on this
# host alone. Exit codes are those of launch/local.sh.
#
# DISTTUNE_RSH     what starts a command on a host, in place of ssh
# DISTTUNE_VENV, DISTTUNE_MPIRUN as for launch/local.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

case "${1:-}" in
    "" | -h | --help) usage; exit 0 ;;
esac
hosts=$1
shift

# shellcheck source=launch/environment.sh
source "$here/launch/environment.sh"
make_environment mpi
# shellcheck source=launch/supervise.sh
source "$here/launch/supervise.sh"
if [[ ! -f $hosts && $hosts == */* ]]; then
    echo "launch/hosts.sh: there is no hostfile $hosts; give a file, or hosts as host1:8,host2:8" >&2
    exit 2
fi
run_on_hosts "$hosts" "$@"
