"""Write plain values as TOML: what `tomllib` reads back is equal, floats bit for bit.

Takes text, bool, int, float, lists and tables with text keys. TOML has no null: leave such keys out.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from disttune.config.errors import InternalError

_MAX_HEADER_PARTS = 3  # deeper tables are written inline
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MAX_SHOWN = 80


def toml_text(data: Mapping[str, Any]) -> str:
    """A document with a header for each section."""
    return "\n".join(_table_lines(data, ())) + "\n"


def toml_value(value: Any) -> str:
    """A value on one line, tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # of a float: the shortest text that reads back as the same number
    if isinstance(value, str):
        return '"' + "".join(_escaped(c) for c in value) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    raise InternalError(f"{type(value).__name__} cannot be written as TOML: {value!r}")


def toml_key(name: str) -> str:
    """A key, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def shown(value: Any) -> str:
    """A value of any kind for a message: as in TOML where it can be, cut when long."""
    try:
        text = toml_value(value)
    except InternalError:
        text = str(value)
    except ValueError:  # Python writes no int of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _table_lines(table: Mapping[str, Any], header: tuple[str, ...]) -> Iterator[str]:
    below = {k: v for k, v in table.items() if _has_header(v, len(header) + 1)}
    for key, value in table.items():
        if key not in below:
            yield f"{toml_key(key)} = {toml_value(value)}"
    for key, value in below.items():
        path = (*header, key)
        name = ".".join(toml_key(k) for k in path)
        for entry in [value] if isinstance(value, Mapping) else value:
            yield ""
            yield f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            yield from _table_lines(entry, path)


def _has_header(value: Any, n_parts: int) -> bool:
    if n_parts > _MAX_HEADER_PARTS or not value:
        return False
    if isinstance(value, list | tuple):
        return all(isinstance(v, Mapping) and v for v in value)
    return isinstance(value, Mapping)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character
