"""A memory file that comes from another node in parts."""

import subprocess
import sys

import numpy as np
import pytest

from disttune.runtime import equipment
from disttune.runtime.equipment import Equipment
from disttune.runtime.replica import Replica, write_replica
from disttune.runtime.start_messages import HaveFile


@pytest.mark.parametrize("part_bytes", [1000, 4096, 10**9])
def test_a_file_arrives_as_it_was_sent(part_bytes, monkeypatch):
    monkeypatch.setattr(equipment, "PART_BYTES", part_bytes)
    here, told = Equipment(lambda _: None, lambda _: None), []
    there = Equipment(told.append, lambda _: None)
    sent = {"a": np.arange(3000, dtype=np.float32), "b": b"bytes"}
    file = here.new("statistics")
    nonce = write_replica(file.descriptor, sent)

    for part in here.bytes_of("statistics"):
        assert memoryview(part.data).nbytes <= part_bytes
        there.take_bytes(part)

    (have,) = told
    assert isinstance(have, HaveFile)
    copy = Replica(have.file.descriptor)
    assert copy.nonce == nonce
    np.testing.assert_array_equal(copy.array("a"), sent["a"])
    here.close()
    there.close()


def test_parts_that_are_left_in_a_cycle_are_collected():
    """In a process of its own: what it guards against ends the interpreter."""
    code = (
        "import gc\n"
        "from disttune.runtime import equipment\n"
        "from disttune.runtime.replica import write_replica\n"
        "equipment.PART_BYTES = 1000\n"
        "for _ in range(50):\n"
        "    here = equipment.Equipment(lambda m: None, lambda m: None)\n"
        "    write_replica(here.new('x').descriptor, {'a': bytes(9000)})\n"
        "    cycle = here.bytes_of('x')\n"
        "    cycle.append(cycle)\n"
        "    here.close()\n"
        "    del cycle\n"
        "    gc.collect()\n"
        "print('alive')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ("alive\n", 0)
