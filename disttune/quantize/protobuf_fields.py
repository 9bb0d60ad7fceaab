"""The fields of a serialized protobuf message, found and written without parsing what is in them.

Source: the encoding that protobuf documents: a tag (number << 3 | wire type), then a varint, 8 bytes, a
length and so many bytes, or 4 bytes.
"""

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MORE = 0x80


class Field(NamedTuple):
    """Where a field stands: its tag at `begin`, its content from `content` to `end`."""

    number: int
    has_length: bool
    begin: int
    content: int
    end: int


def fields(data: memoryview, begin: int, end: int) -> Iterator[Field]:
    """The fields of the message between two positions, in order.

    Raises:
        ValueError: that is no message.
    """
    position = begin
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        wire_type = tag & 7
        content = position
        if wire_type == _BYTES:
            length, content = _varint(data, position, end)
            position = content + length
        elif wire_type == _VARINT:
            _, position = _varint(data, position, end)
        elif wire_type in (_EIGHT, _FOUR):
            position += 8 if wire_type == _EIGHT else 4
        else:
            raise ValueError(f"wire type {wire_type} at {start}")
        if position > end:
            raise ValueError(f"the field at {start} ends behind its message")
        yield Field(tag >> 3, wire_type == _BYTES, start, content, position)


def field_head(number: int, n_bytes: int) -> bytes:
    """Tag and length of a field of bytes whose number is less than 16."""
    encoded = bytearray([number << 3 | _BYTES])
    while n_bytes >= _MORE:
        encoded.append(n_bytes & (_MORE - 1) | _MORE)
        n_bytes >>= 7
    return bytes([*encoded, n_bytes])


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return value, position
        shift += 7
    raise ValueError("a number that does not end")
