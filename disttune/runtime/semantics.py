"""What a recorded result rests on in disttune itself: a journal outlives an upgrade that changes none of it.

A change that makes trials come out different adds a sentence to its part here, in the same commit: journals
of before are then refused, with that sentence. Versions of disttune do not count.
"""

from collections.abc import Mapping

CHANGES: dict[str, tuple[str, ...]] = {  # part: what has changed in it, the oldest first
    "statistics": (),  # of calibration, and the thresholds found in them
    "models": (),  # what the quantizer and its passes make of a candidate
    "metrics": (),  # of the built-in evaluators
    "digests": (),  # by which candidates and models are found again
}


def semantics() -> dict[str, int]:
    """Version of each part, from 1."""
    return {part: 1 + len(changes) for part, changes in CHANGES.items()}


def semantic_changes(recorded: Mapping[str, int], current: Mapping[str, int]) -> list[str]:
    """What has changed since a journal was written, in words; journals of before this was recorded have 1."""
    sentences = []
    for part in sorted(recorded.keys() | current.keys()):
        old, new = recorded.get(part, 1), current.get(part, 1)
        if old > new:
            sentences.append(f"{part}: a later disttune makes them in another way")
        elif old < new:
            sentences.append(f"{part}: since then " + "; ".join(CHANGES.get(part, ())[old - 1 : new - 1]))
    return sentences
