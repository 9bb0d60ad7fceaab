# shellcheck shell=bash
# The virtual environment of this checkout; sourced, not run. Expects $here, sets $venv.

venv=${DISTTUNE_VENV:-$here/.venv}

# make_environment EXTRA: an environment with this checkout installed and an extra of pyproject.toml. Does
# nothing when that was done before for the same pyproject.toml.
make_environment() {
    local extra=$1 stamp
    stamp="$venv/.disttune-$extra"
    if [[ -f $stamp ]] && cmp -s "$stamp" "$here/pyproject.toml"; then
        return
    fi
    echo "setting up $venv (once; extra \"$extra\") ..." >&2
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "disttune needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON." >&2
        exit 2
    fi
    [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${here}[$extra]"
    cp "$here/pyproject.toml" "$stamp"
}
