"""Fewer searches for reference cycles while the master works: its objects are many and live to the end.

With Python's own thresholds they are looked through again and again, for a quarter of the master's time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (50_000, 20, 50)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect seldom; not for code of users, whose cycles may hold large arrays."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
