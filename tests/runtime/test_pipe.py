"""Messages between an agent and its trial process arrive whole, in order, or not at all."""

import itertools
import pickle
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.runtime.pipe import LENGTH, Pipe, PipeClosedError


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def framed(message: object) -> bytes:
    payload = pickle.dumps(message)
    return LENGTH.pack(len(payload)) + payload


def test_messages_arrive_in_order(sockets):
    sender, receiver = map(Pipe, sockets)
    messages = [{"a": 1}, 0, ("x", b"\x00" * 1000), [1, [2]]]

    for message in messages:
        sender.send(message)

    assert receiver.receive() == messages
    assert receiver.receive() == []


def test_both_ends_speak(sockets):
    one, other = map(Pipe, sockets)

    one.send("question")
    other.send("answer")

    assert (other.receive_wait(), one.receive_wait()) == ("question", "answer")


def test_receiving_never_waits_for_the_rest_of_a_message(sockets):
    raw, pipe = sockets[0], Pipe(sockets[1])
    data = framed("one") + framed("two")

    received = []
    for i in range(len(data)):
        raw.sendall(data[i : i + 1])
        received.append(pipe.receive())

    assert [r for r in received if r] == [["one"], ["two"]]
    assert received[-1] == ["two"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_any_cuts_of_the_stream_give_the_same_messages(messages, cuts):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipe = Pipe(theirs)
        data = b"".join(framed(m) for m in messages)
        edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
        received = []
        for start, end in itertools.pairwise(edges):
            ours.sendall(data[start:end])
            received += pipe.receive()
        assert received == messages


def test_a_large_message_is_sent_while_the_other_end_reads(sockets):
    sender, receiver = map(Pipe, sockets)
    message = bytes(20_000_000)

    thread = threading.Thread(target=sender.send, args=(message,))
    thread.start()
    received = receiver.receive_wait()
    thread.join()

    assert received == message


def test_what_was_sent_before_the_end_still_arrives(sockets):
    sender, receiver = map(Pipe, sockets)
    sender.send("last words")
    sender.close()

    assert receiver.receive() == ["last words"]
    with pytest.raises(PipeClosedError):
        receiver.receive()
    with pytest.raises(PipeClosedError):
        receiver.receive_wait()


def test_half_a_message_is_none(sockets):
    raw, receiver = sockets[0], Pipe(sockets[1])
    raw.sendall(framed("cut off")[:-3])
    raw.close()

    with pytest.raises(PipeClosedError):
        receiver.receive()


def test_sending_to_an_end_that_is_gone_is_told(sockets):
    sender, receiver = map(Pipe, sockets)
    receiver.close()

    with pytest.raises(PipeClosedError):
        sender.send("anybody there?")


def test_it_can_be_waited_for(sockets):
    sender, receiver = map(Pipe, sockets)
    assert select.select([receiver], [], [], 0)[0] == []

    sender.send("now")

    assert select.select([receiver], [], [], 1.0)[0] == [receiver]
