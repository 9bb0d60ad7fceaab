"""A shelf: where processes of a node put what each of them would else make and hold for itself."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
LEAST_BYTES = 2**14  # worth a place on a shelf


class Shelf(Protocol):
    """Arrays by key; equal keys have equal arrays, whoever made them."""

    def find(self, key: str) -> Arrays | None:
        """What somebody has put there; not to be written to."""
        ...

    def keep(self, key: str, arrays: Arrays) -> Arrays:
        """Put arrays there for all; gives those to be used from now on instead."""
        ...


def put_on(shelf: Shelf | None, key: str, arrays: Arrays) -> Arrays:
    """The same arrays, from a shelf where there is one and they are worth a place there."""
    if shelf is None or sum(array.nbytes for array in arrays.values()) < LEAST_BYTES:
        return arrays
    return shelf.find(key) or shelf.keep(key, arrays)
