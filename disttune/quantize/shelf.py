"""A shelf: where processes of a node put what each of them would else make and hold for itself."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Shelf(Protocol):
    """Arrays by key; equal keys have equal arrays, whoever made them."""

    def find(self, key: str) -> Arrays | None:
        """What somebody has put there; not to be written to."""
        ...

    def keep(self, key: str, arrays: Arrays) -> Arrays:
        """Put arrays there for all; gives those to be used from now on instead."""
        ...
