"""Whatever a job holds, the answer is a job or one message with a line for each mistake."""

import datetime
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.config.errors import JobFileError
from disttune.config.job import Job
from disttune.config.job_file import job_from_dict, load_job
from tests.config.jobs import FOLDER, FULL_TOML

_garbage = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(["static", "mine.py:f", "float32", "8 GiB", datetime.time(1), b"x", object()]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner,
     max_size=3),
    max_leaves=4,
)  # fmt: skip


def _places(table, path=()):
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _places(value, (*path, key))


PLACES = [*_places(tomllib.loads(FULL_TOML)), *((s, k) for s, f in Job.model_fields.items() if s != "folder"
                                                for k in f.annotation.model_fields)]  # fmt: skip


def answer(data, **arguments) -> Job | str:
    """The job, or the message of its mistakes."""
    try:
        return job_from_dict(data, FOLDER, "job.toml", **arguments)
    except JobFileError as error:
        return str(error)


def is_job_or_lines_of_mistakes(found: Job | str) -> bool:
    if isinstance(found, Job):
        return found == job_from_dict(found.to_dict(), FOLDER)
    return all(line.startswith(("job.toml", "--set ")) for line in found.split("\n"))


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), _garbage), min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_garbage_anywhere_in_a_full_job_gives_a_job_or_a_message(changes):
    data = tomllib.loads(FULL_TOML)
    for path, value in changes:
        table = data
        for key in path[:-1]:
            table = table.get(key) if isinstance(table.get(key), dict) else table.setdefault(key + "_", {})
        table[path[-1]] = value
    assert is_job_or_lines_of_mistakes(answer(data))


@given(setting=st.text(max_size=30) | st.builds(
    "{}={}".format, st.sampled_from([".".join(p) for p in PLACES if all(s.isidentifier() for s in p)]),
    st.text(max_size=20),
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_garbage_in_a_setting_gives_a_job_or_a_message(setting):
    assert is_job_or_lines_of_mistakes(answer(tomllib.loads(FULL_TOML), overrides=[setting]))


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=100, deadline=None)
def test_file_of_garbage_gives_a_message(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_bytes(content)
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    assert str(caught.value).startswith(str(path))
