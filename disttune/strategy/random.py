"""The op-wise product in a seeded random order, without repetition and without a list.

A Feistel network over the smallest even number of bits that holds the range is a permutation of it;
values outside the range are walked again until they fall inside ("cycle walking").
Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", methods 2 and 3.
"""

import hashlib
from collections.abc import Generator

from disttune.strategy.registry import register_strategy
from disttune.strategy.stage import Stage, StageResult
from disttune.strategy.tuning import Tuning

N_ROUNDS = 8


@register_strategy("random")
class Random:
    def stages(self, tuning: Tuning) -> Generator[Stage, StageResult, None]:
        space = tuning.space.op_wise()
        order = (shuffled(i, space.size, tuning.seed) for i in _count(space.size))
        yield Stage("random", (space[i] for i in order), needs="goal")


def shuffled(index: int, size: int, seed: int) -> int:
    """Where a permutation of range(size), chosen by the seed, sends an index.

    Args:
        index: 0 <= index < size.
        size: at least 1; may exceed 2**64.
        seed: any integer.
    Returns:
        A number in range(size); different indices give different numbers.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        index = _feistel(index, half, seed)
        if index < size:
            return index


def _feistel(value: int, half_bits: int, seed: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_number in range(N_ROUNDS):
        text = f"{seed}:{round_number}:{half_bits}:{right}".encode()
        mixed = int.from_bytes(hashlib.shake_128(text).digest((half_bits + 7) // 8), "big") & mask
        left, right = right, left ^ mixed
    return left << half_bits | right


def _count(size: int) -> Generator[int, None, None]:
    index = 0
    while index < size:  # range() cannot be iterated past sys.maxsize in C loops of its users
        yield index
        index += 1
