"""`tests/benchmarks/bench_scale.py` in small: time near its bound, work per message bounded."""

import sys

import pytest

from disttune.runtime.search import Search
from tests.benchmarks.bench_scale import run_at_scale


@pytest.mark.parametrize("as_list", [True, False])
def test_ranks_are_busy_to_the_end_where_every_result_is_needed(as_list: bool):
    found = run_at_scale(16, 800, as_list)

    assert found.bound_s / found.time_s >= 0.98


def test_a_message_costs_the_master_the_same_work_on_more_ranks():
    n_lines = [lines_per_message(n_ranks) for n_ranks in (4, 64)]

    assert n_lines[1] <= 1.1 * n_lines[0]


def lines_per_message(n_ranks: int) -> float:
    """How many lines of Python `Search` and what it calls run for a message."""
    n_lines = 0
    is_inside = False
    entries = {Search.receive.__code__, Search.poll.__code__}

    def trace(frame, event, _argument):  # type: ignore[no-untyped-def]
        nonlocal n_lines, is_inside
        is_inside = is_inside or frame.f_code in entries
        n_lines += event == "line"
        if event == "return" and frame.f_code in entries:
            is_inside = False
        return trace if is_inside else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = run_at_scale(n_ranks, 128, as_list=False)
    finally:
        sys.settrace(before)
    return n_lines / found.n_messages
