"""The shelf behind a replica: found by all, survives any death, never waited for."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from disttune.runtime import replica_shelf
from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import Replica, copy_to_memory_file, create_memory_file, write_replica
from disttune.runtime.replica_shelf import ReplicaShelf

PART = np.arange(100_000, dtype=np.float32)
CODES = {
    "codes": np.arange(60_000, dtype=np.int8).reshape(300, 200),
    "scale": np.float32(0.5).reshape(()),
    "none": np.zeros((0, 3), np.int64),
}
DIES_WHILE_WRITING = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(descriptor, fcntl.LOCK_EX)
end = os.fstat(descriptor).st_size
os.pwrite(descriptor, b"half of a record " * 1000, -(-end // 4096) * 4096)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file():
    descriptor = create_memory_file()
    write_replica(descriptor, {"part": PART})
    yield OpenFile(os.getpid(), descriptor)
    os.close(descriptor)


def opened(file: OpenFile) -> ReplicaShelf:
    shelf = ReplicaShelf.open(file)
    assert shelf is not None
    return shelf


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and np.array_equal(a[n], b[n]) for n in a
    )


def test_what_one_keeps_another_finds(file):
    one, other = opened(file), opened(file)
    assert other.find("key") is None

    kept = one.keep("key", CODES)

    found = other.find("key")
    assert equal(kept, CODES)
    assert equal(found, CODES)
    assert not found["codes"].flags.writeable
    assert other.find("another") is None
    np.testing.assert_array_equal(Replica(file.descriptor).array("part"), PART)


def test_who_comes_first_counts(file):
    one, other = opened(file), opened(file)
    one.keep("key", CODES)
    size = os.fstat(file.descriptor).st_size

    kept = other.keep("key", {"codes": np.zeros(5)})

    assert equal(kept, CODES)
    assert os.fstat(file.descriptor).st_size == size


def test_a_maker_killed_while_it_writes_leaves_nothing_and_holds_up_nobody(file):
    opened(file).keep("before", CODES)
    path = f"/proc/{file.pid}/fd/{file.descriptor}"
    with subprocess.Popen(
        [sys.executable, "-c", DIES_WHILE_WRITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"written\n"
        maker.send_signal(signal.SIGKILL)

    shelf = opened(file)
    shelf.keep("after", CODES)

    assert equal(opened(file).find("before"), CODES)
    assert equal(opened(file).find("after"), CODES)


def test_a_maker_that_hangs_is_not_waited_for(file, monkeypatch):
    monkeypatch.setattr(replica_shelf, "_LOCK_WAIT_S", 0.02)
    hanging = os.open(f"/proc/{file.pid}/fd/{file.descriptor}", os.O_RDWR)
    fcntl.flock(hanging, fcntl.LOCK_EX)

    kept = opened(file).keep("key", CODES)

    assert kept is CODES
    assert opened(file).find("key") is None
    os.close(hanging)
    assert opened(file).keep("key", CODES) is not CODES


def test_a_full_shelf_takes_no_more(file):
    shelf = opened(file)
    large = {"codes": np.zeros(PART.nbytes, np.int8)}

    kept = [shelf.keep(str(i), large) for i in range(3)]

    assert [arrays is large for arrays in kept] == [False, True, True] or [
        arrays is large for arrays in kept
    ] == [False, False, True]
    assert equal(shelf.keep("small", CODES), CODES)


def test_another_node_gets_the_parts_alone(file):
    opened(file).keep("key", CODES)

    copy = copy_to_memory_file(Replica(file.descriptor).raw())

    np.testing.assert_array_equal(Replica(copy).array("part"), PART)
    there = opened(OpenFile(os.getpid(), copy))
    assert there.find("key") is None
    assert equal(there.keep("key", CODES), CODES)
    os.close(copy)


def test_descriptors_are_closed_with_the_shelf(file):
    before = len(list(Path("/proc/self/fd").iterdir()))
    shelf = opened(file)
    found = shelf.keep("key", CODES)
    del shelf, found

    assert len(list(Path("/proc/self/fd").iterdir())) == before
