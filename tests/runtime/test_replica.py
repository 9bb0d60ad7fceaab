"""The replica: parts come back as they were written, and it is found only where it is."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from disttune.runtime.replica import (
    NONCE_BYTES,
    Replica,
    copy_to_memory_file,
    create_memory_file,
    open_source,
    write_replica,
)

PARTS = {
    "model": b"\x00\x01\xff" * 11,
    "feeds/0/x": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "scalar": np.float64(0.1),
    "empty": np.zeros((0, 5), np.int64),
    "nothing": b"",
    "transposed": np.arange(6, dtype=np.int8).reshape(2, 3).T,
    "text": np.array(["größer", ""], np.str_),
    "flags": np.array([True, False]),
    "big endian": np.array([1, 2], ">i4"),
}


def written(parts: dict[str, object]) -> tuple[int, bytes]:
    descriptor = create_memory_file()
    return descriptor, write_replica(descriptor, parts)  # type: ignore[arg-type]


def n_descriptors() -> int:
    """Open ones of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_parts_come_back_with_type_and_shape():
    descriptor, nonce = written(PARTS)

    replica = Replica(descriptor)

    assert replica.nonce == nonce
    assert replica.names() == list(PARTS)
    for name, part in PARTS.items():
        expected = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else np.asarray(part)
        found = replica.array(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert np.array_equal(found, expected), name
    os.close(descriptor)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5),
        arrays.arrays(
            arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        ),
        max_size=4,
    )
)
def test_any_arrays_come_back_bit_for_bit(parts):
    descriptor, _ = written(parts)
    replica = Replica(descriptor)
    found = {name: replica.array(name) for name in replica.names()}
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in parts.items()
    }
    os.close(descriptor)


def test_arrays_are_aligned_views_that_cannot_be_written():
    descriptor, _ = written(PARTS)
    array = Replica(descriptor).array("feeds/0/x")

    assert array.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    os.close(descriptor)


def test_a_part_that_is_not_there_is_an_error():
    descriptor, _ = written({})
    assert Replica(descriptor).names() == []
    with pytest.raises(KeyError):
        Replica(descriptor).array("model")
    os.close(descriptor)


def test_each_replica_has_a_nonce_of_its_own():
    nonces = [written({"a": b"same"})[1] for _ in range(3)]

    assert len(set(nonces)) == 3
    assert {len(n) for n in nonces} == {NONCE_BYTES}


def test_views_outlive_the_descriptor():
    descriptor, _ = written({"a": np.arange(1000)})
    replica = Replica(descriptor)
    os.close(descriptor)

    assert replica.array("a").sum() == 499500


# Another process


def test_another_process_of_this_node_opens_it_by_pid_and_descriptor():
    descriptor, nonce = written({"a": np.arange(3)})
    code = (
        "import sys\n"
        "from disttune.runtime.replica import Replica, open_source\n"
        "opened = open_source(int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]))\n"
        "print(Replica(opened).array('a').tolist())\n"
    )

    child = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid()), str(descriptor), nonce.hex()],
        capture_output=True,
        text=True,
        check=True,
    )

    assert child.stdout.strip() == "[0, 1, 2]"
    os.close(descriptor)


def test_a_descriptor_that_holds_something_else_is_not_opened():
    descriptor, nonce = written({"a": b"x"})
    other, other_nonce = written({"a": b"x"})
    n_open = n_descriptors()

    assert open_source(os.getpid(), descriptor, other_nonce) is None
    assert open_source(os.getpid(), other, nonce) is None
    with Path("/dev/null").open("rb") as file:
        assert open_source(os.getpid(), file.fileno(), nonce) is None
    assert n_descriptors() == n_open
    os.close(descriptor)
    os.close(other)


def test_a_process_or_descriptor_that_is_not_there_is_no_error():
    descriptor, nonce = written({"a": b"x"})

    assert open_source(2**22 + 1, descriptor, nonce) is None
    assert open_source(os.getpid(), 9999, nonce) is None
    os.close(descriptor)


def test_another_node_gets_a_copy_of_the_bytes():
    descriptor, nonce = written(PARTS)
    frames: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(Replica(descriptor).raw(), protocol=5, buffer_callback=frames.append)

    copy = copy_to_memory_file(pickle.loads(sent, buffers=[bytes(f.raw()) for f in frames]))

    assert Replica(copy).nonce == nonce
    assert np.array_equal(Replica(copy).array("feeds/0/x"), PARTS["feeds/0/x"])
    os.close(descriptor)
    os.close(copy)


def test_without_memfd_a_file_that_no_name_leads_to_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    descriptor, nonce = written(PARTS)

    assert list(tmp_path.iterdir()) == []
    assert Replica(descriptor).nonce == nonce
    assert open_source(os.getpid(), descriptor, nonce) is not None
    os.close(descriptor)


def test_descriptor_that_is_a_pipe_here_is_of_another_node():
    reading, writing = os.pipe()

    assert open_source(os.getpid(), reading, b"n" * 16) is None
    assert open_source(os.getpid(), writing, b"n" * 16) is None
    os.close(reading)
    os.close(writing)
