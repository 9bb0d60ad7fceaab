"""How fast ranks get through the layers of a model, in simulated seconds: no clock, real search and pool.

Oracles: `TimedWorks.bound_s`, below which no order can come, and Graham's bound for lists.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttune.quantize.work import Work
from tests.simulated_works import MESSAGE_S, TimedWorks, finished, seconds_with

BLOCK = {"q": (384, 384), "k": (384, 384), "v": (384, 384), "o": (384, 384), "up": (384, 1536),
         "down": (1536, 384)}  # fmt: skip
N_PLACES = 8


def transformer(n_blocks: int, place_s: float = 0.0, sequential: bool = False) -> TimedWorks:
    """Layers of which the longest takes 2.4 s; a place is an eighth of the model."""
    shapes = [(f"{i}{name}", shape) for i in range(n_blocks) for name, shape in BLOCK.items()]
    works, seconds = [], {}
    before: tuple[str, ...] = ()
    for number, (key, (n_rows, n_columns)) in enumerate(shapes):
        seconds[key] = n_rows * n_columns * (n_rows + 350) / 4.6e8
        place = key[:-1] if sequential else str(number * N_PLACES // len(shapes))
        works.append(
            Work("solve", key, key, (), seconds[key], place=place, needs=before if sequential else ())
        )
        if key[-1] in "vo" or key.endswith(("up", "down")):
            before = (*before, *(w.key for w in works if w.key not in before))
    return TimedWorks(works, seconds, {work.place: place_s for work in works})


@pytest.mark.parametrize("n_blocks", [4, 6, 12])
@pytest.mark.parametrize("place_s", [0.0, 0.5])
def test_four_ranks_are_at_least_three_and_a_half_times_as_fast_as_one(n_blocks: int, place_s: float) -> None:
    timed = transformer(n_blocks, place_s)
    assert seconds_with(timed, 1) / seconds_with(timed, 4) >= 3.5


def test_every_layer_is_solved_once_whatever_the_ranks() -> None:
    timed = transformer(6)
    for n_ranks in (1, 2, 4, 50):
        assert finished(timed, n_ranks).done_by.keys() == timed.seconds.keys()


def test_one_long_layer_is_the_bound_and_is_reached() -> None:
    works = [Work("solve", str(i), str(i), (), 100.0 if i == 5 else 1.0) for i in range(20)]
    timed = TimedWorks(works, {work.key: work.cost for work in works})
    assert timed.bound_s(4) == 100.0
    assert seconds_with(timed, 4) == pytest.approx(100.0, abs=0.01)


def test_layers_that_need_those_before_them_leave_ranks_without_work() -> None:
    timed = transformer(6, sequential=True)  # at most q, k and v at the same time
    one, four = seconds_with(timed, 1), seconds_with(timed, 4)
    assert four == pytest.approx(timed.bound_s(4), rel=0.01)
    assert 1.1 < one / four < 1.2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 9.0), min_size=1, max_size=30), st.integers(1, 6))
def test_no_rank_idles_while_works_wait(seconds: list[float], n_ranks: int) -> None:
    works = [Work("solve", str(i), str(i), (), each) for i, each in enumerate(seconds)]
    timed = TimedWorks(works, {work.key: work.cost for work in works})
    found = seconds_with(timed, n_ranks)
    most = sum(seconds) / n_ranks + max(seconds) * (1 - 1 / n_ranks)
    assert timed.bound_s(n_ranks) <= found <= most + 4 * MESSAGE_S * len(works)


def test_a_rank_takes_the_place_with_most_left_to_do() -> None:
    works = [Work("solve", f"a{i}", "a", (), 2.0, place="a") for i in range(2)]
    works += [Work("solve", f"b{i}", "b", (), 1.0, place="b") for i in range(9)]
    timed = TimedWorks(works, {work.key: work.cost for work in works})
    assert finished(timed, 2).done_by["b0"] == 0
