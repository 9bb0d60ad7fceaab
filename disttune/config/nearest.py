"""Messages for an unknown name: the nearest valid one, then all of them."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Sentence for a name that is not among the valid ones.

    Args:
        kind: what the name stands for, e.g. "strategy" or "key".
        name: what was given.
        valid: every name that would have been accepted.
    Returns:
        `no <kind> "<name>". Nearest: "<x>". All: a, b, c.`
    """
    names = sorted(set(valid))
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    nearest = f' Nearest: "{near[0]}".' if near else ""
    listing = f" All: {', '.join(names)}." if names else " There is none."
    return f'no {kind} "{name}".{nearest}{listing}'
