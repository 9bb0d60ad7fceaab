"""Numbers of ranks as a user types them: "1,2,4"."""

from disttune.config.errors import InputError

MOST = 100_000


def rank_counts(text: str) -> list[int]:
    """Each number once, in the order given.

    Raises:
        InputError: something else than numbers from 1 to `MOST` with commas between.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= len(str(MOST)) and 0 < int(part) <= MOST for part in parts):
        raise InputError(
            f'--ranks "{text}": it is numbers of at least 1 with commas between, such as 1,2,4; '
            f"none above {MOST:,}"
        )
    return list(dict.fromkeys(map(int, parts)))
