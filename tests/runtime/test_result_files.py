"""Results in a growing memory file: many windows, few descriptors, mapped while it grows."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from disttune.runtime.messages import OpenFile
from disttune.runtime.result_files import ResultFiles
from disttune.runtime.statistics_work import arrays, mapped

SOLUTION = {"codes": np.arange(12, dtype=np.int8).reshape(3, 4), "scale": np.float32([0.5])}


def content(files: ResultFiles, key: str) -> dict[str, Any]:
    return {name: array.tolist() for name, array in arrays(mapped(files.file(key))).items()}


def n_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_thousand_results_are_read_back_and_take_one_descriptor():
    files, before = ResultFiles(), n_descriptors()
    for i in range(1000):
        files.keep(str(i), {"x": np.full(i % 3000, i)})
    assert n_descriptors() == before + 1
    assert all(content(files, str(i)) == {"x": [i] * (i % 3000)} for i in (0, 1, 600, 999))
    files.close()
    assert n_descriptors() == before


def test_result_stays_mapped_while_the_file_grows_and_after_it_is_closed():
    files = ResultFiles()
    files.keep("a", SOLUTION)
    found = arrays(mapped(files.file("a")))
    files.keep("b", {"large": np.zeros(1 << 20)})
    files.close()
    np.testing.assert_equal(found, SOLUTION)


def test_bytes_for_another_node_hold_the_result_alone():
    here, there = ResultFiles(), ResultFiles()
    for key in "abc":
        here.keep(key, SOLUTION | {"key": np.str_(key)})
        there.keep_bytes(key, bytes(here.raw(key)))
    assert [content(there, key)["key"] for key in "abc"] == ["a", "b", "c"]
    assert there.file("b").n_bytes == here.file("b").n_bytes


def test_results_of_another_process_are_opened_once_and_told_apart_by_their_nonce():
    theirs, ours = ResultFiles(), ResultFiles()
    nonces = {key: theirs.keep(key, {"key": np.str_(key)}) for key in "ab"}
    before = n_descriptors()
    assert all(ours.open(key, theirs.file(key), nonce) for key, nonce in nonces.items())
    assert n_descriptors() == before + 1
    assert content(ours, "b") == {"key": "b"}
    assert not ours.open("c", theirs.file("a"), nonces["b"])
    assert not ours.open("d", OpenFile(os.getpid(), 9999), nonces["a"])
