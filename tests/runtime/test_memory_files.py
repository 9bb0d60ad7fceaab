"""A memory file that comes from another node in parts."""

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
