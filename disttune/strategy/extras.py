"""Packages that only some strategies need: asked for before anything is measured."""

import importlib.util

from disttune.config.errors import InputError


def require(strategy: str, module: str, extra: str | None = None) -> None:
    """Check that a package is there, without importing it.

    Args:
        strategy: that needs it.
        module: its import name.
        extra: of disttune that installs it; None: it belongs to disttune itself.
    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        install = f"disttune[{extra}]" if extra else "disttune"
        raise InputError(
            f'[tuning] strategy: {strategy} needs the package "{module}", which is not installed; '
            f"pip install '{install}'"
        )
