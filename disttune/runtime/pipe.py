"""Framed messages over a socket pair between an agent and its trial process.

A frame is 8 bytes of length (little endian) and a pickle. Both ends are processes of one MPI job that the
agent itself started; nothing is ever read from disk.
"""

import pickle
import socket
import struct
from typing import Any

LENGTH = struct.Struct("<Q")
CHUNK_BYTES = 1 << 20


class PipeClosedError(Exception):
    """The other end is gone."""


class Pipe:
    """One end; `receive` never blocks, `receive_wait` does."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Send one message whole.

        Raises:
            PipeClosedError: the other end is gone.
        """
        payload = pickle.dumps(message, protocol=5)
        try:
            self._socket.setblocking(True)
            self._socket.sendall(LENGTH.pack(len(payload)))
            self._socket.sendall(payload)
        except OSError as error:
            raise PipeClosedError from error

    def receive(self) -> list[Any]:
        """Every message that has arrived whole.

        Raises:
            PipeClosedError: the other end is gone and nothing whole is left.
        """
        closed = False
        self._socket.setblocking(False)
        while True:
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                closed = True
                break
            self._buffer += data
        messages = []
        while (message := self._take()) is not None:
            messages.append(message)
        if closed and not messages:
            raise PipeClosedError
        return messages

    def receive_wait(self) -> Any:
        """The next message, however long it takes.

        Raises:
            PipeClosedError: the other end is gone.
        """
        self._socket.setblocking(True)
        while (message := self._take()) is None:
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except OSError as error:
                raise PipeClosedError from error
            if not data:
                raise PipeClosedError
            self._buffer += data
        return message

    def close(self) -> None:
        self._socket.close()

    def _take(self) -> Any | None:
        if len(self._buffer) < LENGTH.size:
            return None
        (n_bytes,) = LENGTH.unpack_from(self._buffer)
        end = LENGTH.size + n_bytes
        if len(self._buffer) < end:
            return None
        message = pickle.loads(memoryview(self._buffer)[LENGTH.size : end])
        del self._buffer[:end]
        return message
