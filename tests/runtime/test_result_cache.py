"""Results of works on disk: read back as they were; damage and want of room cost a second run, no more."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disttune.runtime.result_cache import ResultCache

SOLUTION = {"0/codes": np.arange(12, dtype=np.int8).reshape(3, 4), "file": np.array(["loss", "x"])}
KEY = "00ff"


def kept(folder: Path, results: dict[str, Any], key: str = KEY, **options: Any) -> ResultCache:
    """What the next session finds."""
    cache = ResultCache(folder, **options)
    cache.keep(key, results)
    cache.close()
    assert cache.take_complaints() == []
    return ResultCache(folder)


def test_result_is_there_in_the_next_session_whatever_its_arrays_are_called(tmp_path: Path):
    cache = kept(tmp_path / "cache", SOLUTION)
    assert cache.has(KEY)
    np.testing.assert_equal(cache.load(KEY), SOLUTION)
    assert not cache.has("00fe")


@pytest.mark.parametrize("n_bytes_left", [0, 10, 200])
def test_damaged_file_is_complained_of_once(tmp_path: Path, n_bytes_left: int):
    cache = kept(tmp_path, SOLUTION)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:n_bytes_left])
    assert [cache.load(KEY), cache.load(KEY)] == [None, None]
    (complaint,) = cache.take_complaints()
    assert str(path) in complaint


def test_changed_content_is_damage(tmp_path: Path):
    cache = kept(tmp_path, SOLUTION)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    assert data.count(bytes(range(12))) == 1
    path.write_bytes(data.replace(bytes(range(12)), bytes(range(1, 13))))
    assert cache.load(KEY) is None


def test_objects_are_never_read(tmp_path: Path):
    cache = kept(tmp_path, SOLUTION)
    (path,) = tmp_path.iterdir()
    with path.open("wb") as file:
        np.savez(file, x=np.array([{}]))
    assert cache.load(KEY) is None


def test_results_beyond_the_limit_are_not_kept(tmp_path: Path):
    large = {"x": np.zeros(1000)}
    kept(tmp_path, large, "a", most_bytes=10_000)
    kept(tmp_path, large, "b", most_bytes=10_000)
    assert len(list(tmp_path.iterdir())) == 1


def test_key_that_is_no_digest_names_no_file(tmp_path: Path):
    cache = kept(tmp_path / "cache", SOLUTION, "../../x")
    assert not cache.has("../../x")
    assert list(tmp_path.rglob("*.npz")) == []


def test_folder_that_cannot_be_written_is_complained_of_once(tmp_path: Path):
    (tmp_path / "cache").write_text("no folder")
    cache = ResultCache(tmp_path / "cache")
    cache.keep("a", SOLUTION)
    cache.keep("b", SOLUTION)
    cache.close()
    (complaint,) = cache.take_complaints()
    assert "are not kept for a resume" in complaint


def test_what_a_killed_session_was_writing_is_removed(tmp_path: Path):
    (tmp_path / f"work-1-{KEY}.writing").write_bytes(os.urandom(9))
    assert not ResultCache(tmp_path).has(KEY)
    assert list(tmp_path.iterdir()) == []
