"""Ends a process that waits for MPI to start: MPI does so for ever where a rank has died.

MPI holds the interpreter's lock meanwhile, so that neither a thread nor a signal's handler of Python could do
it. A timer of the C library can: in a thread of its own it calls `warnx` and then `_exit`.
"""

import ctypes
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MONOTONIC = 1  # clock ids and ways to notify, as in time.h and signal.h
THREAD = 2
LAST_WORD_S = 0.2  # between the message and the end


class _Event(ctypes.Structure):
    """`struct sigevent`: 64 bytes."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    ]


class _Times(ctypes.Structure):
    """`struct itimerspec`: once, after so long."""

    _fields_ = [
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("after_s", ctypes.c_long),
        ("after_ns", ctypes.c_long),
    ]


@contextmanager
def ended_after(seconds: float, message: str, exit_code: int) -> Iterator[None]:
    """End this process when something takes longer.

    Args:
        seconds: more than 0.
        message: for stderr; none when empty.
        exit_code: of the process then; 1 (and Python says where it waits) in a C library without such timers.
    """
    try:
        libc = ctypes.CDLL(None)
        ending = _call_after(libc, seconds + LAST_WORD_S, libc._exit, exit_code)
    except (AttributeError, OSError):
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        return
    text = ctypes.create_string_buffer(message.replace("%", "%%").encode())
    timers = [ending]
    if message:
        name = ctypes.create_string_buffer(b"disttune")
        ctypes.c_void_p.in_dll(libc, "program_invocation_short_name").value = ctypes.addressof(name)
        timers.append(_call_after(libc, seconds, libc.warnx, ctypes.addressof(text)))
    try:
        yield
    finally:
        for timer in timers:
            libc.timer_delete(timer)


def _call_after(libc: Any, seconds: float, function: Any, argument: int) -> ctypes.c_void_p:
    """A timer that calls a function of the C library with one argument.

    Raises:
        OSError: there are no more timers.
    """
    timer = ctypes.c_void_p()
    address = ctypes.cast(function, ctypes.c_void_p).value
    event = _Event(value=argument, notify=THREAD, function=address)
    times = _Times(0, 0, int(seconds), int(seconds % 1 * 1e9))
    if libc.timer_create(MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError("timer_create")
    libc.timer_settime(timer, 0, ctypes.byref(times), None)
    return timer
