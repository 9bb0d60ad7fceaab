"""The Pareto front against its definition: no other trial is as good in everything."""

from hypothesis import given
from hypothesis import strategies as st

from disttune.schedule.pareto import pareto_front
from disttune.strategy.trial import Latency, Trial
from tests.simulated import small_space

SPACE = small_space(3)
CANDIDATES = (SPACE[0], SPACE[0].in_float("conv_0"), SPACE[0].in_float("conv_0", "conv_2"))
ROWS = st.tuples(
    st.sampled_from([None, 0.5, 0.75, 1.0]),
    st.integers(1, 3),
    st.sampled_from([None, 0.5, 1.0]),
    st.sampled_from(range(3)),
)


def rows_of(facts):
    return [
        Trial(
            number, "all", CANDIDATES[n_float], "ok" if metric else "failed", metric=metric, size_bytes=size,
            n_quantized=1, latency=Latency(ratio, 0.0, 1.0, 1.0) if ratio else None,
        )
        for number, (metric, size, ratio, n_float) in enumerate(facts)
    ]  # fmt: skip


@given(st.lists(ROWS, max_size=12), st.booleans())
def test_the_front_holds_what_nothing_else_covers(facts, higher_is_better):
    def costs(number):
        metric, size, ratio, n_float = facts[number]
        return (-metric if higher_is_better else metric, size, ratio or 9.0, n_float)

    numbers = [n for n, (metric, *_) in enumerate(facts) if metric]
    expected = tuple(
        n
        for n in numbers
        if not any(
            all(a <= b for a, b in zip(costs(m), costs(n), strict=True)) and (costs(m) != costs(n) or m < n)
            for m in numbers
            if m != n
        )
    )

    assert pareto_front(rows_of(facts), higher_is_better) == expected


def test_repeats_and_rows_cut_short_are_not_on_it():
    first = Trial(0, "all", SPACE[0], "ok", metric=0.9, size_bytes=1, n_quantized=1)
    repeat = Trial(1, "all", SPACE[1], "ok", metric=0.9, size_bytes=1, n_quantized=1, duplicate_of=0)
    cut = Trial(2, "all", SPACE[2], "timeout", cancelled=True)

    assert pareto_front([first, repeat, cut], True) == (0,)
