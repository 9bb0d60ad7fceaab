#!/usr/bin/env bash
# Everything that CI checks: style, types, import rules, tests (shell scripts among them), a real mpirun.
#
#   tests/run.sh [ARGUMENTS FOR PYTEST ...]     with arguments: only pytest with these
#
# Sets up .venv with extra "dev" on the first call.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"
# shellcheck source=launch/environment.sh
source launch/environment.sh
make_environment dev
export PATH="$venv/bin:$PATH" DISTTUNE_REQUIRE_MPI=1

if [[ $# -gt 0 ]]; then
    exec python -m pytest "$@"
fi
ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest -m "not on_demand"
