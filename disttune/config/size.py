"""Sizes of memory as users write them."""

import re
from fractions import Fraction

from disttune.config.errors import InputError

_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
UNITS = {"B": 1} | _DECIMAL | _BINARY


def parse_size(text: str) -> int:
    """Number of bytes of a size such as "8 GiB", "1.5GB" or "4096 B".

    Args:
        text: a number and a unit of `UNITS`, in upper or lower case; kB to TB are powers of 1000,
            KiB to TiB of 1024. A fraction of a byte is dropped.
    Raises:
        InputError: it is not of this form.
    """
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]+)\s*", text, re.ASCII)
    factors = {unit.lower(): factor for unit, factor in UNITS.items()}
    if match is None or match[2].lower() not in factors:
        raise InputError(
            f'must be a size such as "8 GiB" or a number of bytes; "{text}" was given. '
            f"Units: {', '.join(UNITS)}."
        )
    return int(Fraction(match[1]) * factors[match[2].lower()])
