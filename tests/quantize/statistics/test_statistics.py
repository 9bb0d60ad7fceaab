"""Many tensors: merging, packing, files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InternalError, RunDirectoryError
from disttune.quantize.statistics.statistics import Statistics
from disttune.quantize.statistics.tensor_statistics import TensorStatistics
from tests.quantize.statistics.observed import observed, packed, rows

NAMES = ["x", "a/b:0", "ümläut", "empty"]


def some_statistics(seed: int = 0) -> Statistics:
    random = np.random.default_rng(seed)
    arrays = (10.0 ** random.integers(-9, 9) * random.standard_normal((4, 30)) for _ in NAMES[:-1])
    tensors = {n: observed(rows(a.astype(np.float32))) for n, a in zip(NAMES, arrays, strict=False)}
    return Statistics(tensors | {NAMES[-1]: TensorStatistics.empty()})


@given(st.integers(0, 2**32))
def test_arrays_give_the_statistics_back(seed):
    statistics = some_statistics(seed)
    again = Statistics.from_arrays(statistics.to_arrays())
    assert list(again) == NAMES
    assert packed(again) == packed(statistics)
    assert {n: packed(t) for n, t in again.items()} == {n: packed(t) for n, t in statistics.items()}


def test_arrays_of_no_tensors_are_statistics_too():
    assert len(Statistics.from_arrays(Statistics({}).to_arrays())) == 0


def test_packed_counts_take_the_smallest_type_and_no_room_for_empty_ends():
    statistics = Statistics({"t": observed(rows(np.full((1, 300), 0.75, np.float32)))})
    counts = statistics.to_arrays()["counts"]
    assert (counts.dtype, counts.tolist()) == (np.uint16, [300, 300])
    assert Statistics.from_arrays({**statistics.to_arrays()})["t"].counts.dtype == np.int64


def test_statistics_of_different_tensors_do_not_merge():
    some = some_statistics()
    with pytest.raises(InternalError, match="different tensors"):
        Statistics.merged([some, Statistics({"x": some["x"]})])


def test_merged_statistics_have_the_samples_of_all_parts():
    merged = Statistics.merged([some_statistics(0), some_statistics(1)])
    assert [t.n_samples for t in merged.values()] == [8, 8, 8, 0]
    assert len(Statistics.merged([])) == 0


def test_the_digest_is_over_everything():
    assert some_statistics(0).digest == some_statistics(0).digest != some_statistics(1).digest


def test_a_file_gives_the_statistics_back_and_leaves_nothing_beside_it(tmp_path):
    statistics = some_statistics()
    statistics.save(tmp_path / "s.npz")
    loaded, reason = Statistics.load(tmp_path / "s.npz")
    assert loaded is not None
    assert packed(loaded) == packed(statistics)
    assert reason == ""
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_a_file_that_is_not_there_is_absent(tmp_path):
    assert Statistics.load(tmp_path / "s.npz") == (None, f"{tmp_path / 's.npz'}: there is no such file")


@pytest.mark.parametrize("at", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_a_file_with_one_changed_byte_is_absent(tmp_path, at):
    path = tmp_path / "s.npz"
    some_statistics().save(path)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0xFF
    path.write_bytes(data)
    loaded, reason = Statistics.load(path)
    assert loaded is None
    assert "damaged" in reason


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"statistics"])
def test_a_file_of_something_else_is_absent(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    loaded, reason = Statistics.load(tmp_path / "s.npz")
    assert loaded is None
    assert "damaged" in reason


def test_a_file_cut_off_is_absent(tmp_path):
    path = tmp_path / "s.npz"
    some_statistics().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert Statistics.load(path)[0] is None


def test_pickled_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "s.npz", names=np.array([{}], dtype=object))
    assert Statistics.load(tmp_path / "s.npz")[0] is None


def test_a_file_of_another_content_under_the_same_digest_is_absent(tmp_path):
    arrays = some_statistics().to_arrays()
    np.savez(tmp_path / "s.npz", digest=np.array(some_statistics(1).digest), **arrays)
    loaded, reason = Statistics.load(tmp_path / "s.npz")
    assert loaded is None
    assert "digest" in reason


def test_a_file_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"statistics cannot be written: No such file"):
        some_statistics().save(tmp_path / "missing" / "s.npz")
