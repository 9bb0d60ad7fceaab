"""`--set section.key=value`: what it says, and laying it over a job."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from disttune.config.errors import JobFileError

_SEGMENT = r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+"""
_SETTING = re.compile(rf"\s*((?:{_SEGMENT})(?:\s*\.\s*(?:{_SEGMENT}))*)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Override:
    """One setting of the command line.

    Args:
        text: as it was typed.
        path: section, key and what lies below.
        value: plain TOML value.
    """

    text: str
    path: tuple[str, ...]
    value: Any


def parse_override(text: str) -> Override:
    """Read one `key=value`.

    Args:
        text: the key with dots between its parts, quoted where a part holds other characters than
            letters, digits, _ and - (`quantization.op_names."conv.*".fallback=float32`); the value as
            in TOML, or bare text.
    Raises:
        JobFileError: it is not of this form.
    """
    if "=" not in text:
        raise JobFileError(f"--set {text}: has no value; the form is --set tuning.max_trials=50")
    match = _SETTING.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        path = tuple(
            tomllib.loads(f"k = {s}")["k"] if s[0] in "\"'" else s for s in re.findall(_SEGMENT, match[1])
        )
    except ValueError:
        raise JobFileError(
            f"--set {text}: the key cannot be read; quote parts with other characters than letters, digits, "
            """_, -, and the whole for the shell: --set 'quantization.op_names."conv.*".fallback=float32'"""
        ) from None
    return Override(text, path, _value(text, match[2].strip()))


def apply_overrides(data: dict[str, Any], overrides: Iterable[Override]) -> list[str]:
    """Lay settings over a job in place, later ones over earlier ones.

    Returns:
        One message for each setting that has no place in the job.
    """
    refused = []
    for override in overrides:
        table: Any = data
        for n, segment in enumerate(override.path[:-1], start=1):
            table = table.setdefault(segment, {})
            if not isinstance(table, dict):
                name = ".".join(override.path[:n])
                refused.append(f'--set {override.text}: "{name}" is not a table; set it as a whole')
                break
        else:
            table[override.path[-1]] = override.value
    return refused


def _value(text: str, value: str) -> Any:
    try:
        document = tomllib.loads(f"v = {value}")
    except (ValueError, RecursionError) as error:
        if value[:1] in ("[", "{", '"', "'"):
            raise JobFileError(f"--set {text}: {value} is not a TOML value: {error}") from None
        return value
    return document["v"] if document.keys() == {"v"} else value
