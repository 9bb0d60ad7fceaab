"""Sizes of memory as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.size import UNITS, parse_size


@pytest.mark.parametrize(("text", "n_bytes"), [
    ("8 GiB", 8 * 2**30), ("8GiB", 8 * 2**30), (" 1.5 gib ", 3 * 2**29), ("2 GB", 2 * 10**9),
    ("10 kB", 10_000),
    ("512 MiB", 2**29), ("1 TiB", 2**40), ("4096 B", 4096), ("0.1 GB", 10**8), ("0.3 B", 0),
])  # fmt: skip
def test_number_and_unit_give_bytes(text, n_bytes):
    assert parse_size(text) == n_bytes


@given(number=st.integers(0, 10**29), unit=st.sampled_from(list(UNITS)))
def test_whole_numbers_of_a_unit_are_exact(number, unit):
    assert parse_size(f"{number} {unit}") == number * UNITS[unit]


@pytest.mark.parametrize(
    "text", ["", "8", "GiB", "8 G", "8 GiB GiB", "-1 GiB", "1e3 MB", "1,5 GB", "٣ GB", "nan GB"]
)
def test_other_text_is_refused_with_the_units(text):
    with pytest.raises(InputError, match="Units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"):
        parse_size(text)
