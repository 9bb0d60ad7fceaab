"""The trial table and the best so far: goal, best and counting as the strategies' definition has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import InputError
from disttune.config.goal import Goal, Objective
from disttune.schedule.history import History
from disttune.schedule.outcome import Outcome
from disttune.space.candidate import Candidate
from disttune.strategy.trial import Trial
from disttune.strategy.tuning import Tuning
from tests.simulated import small_space, summary

SPACE = small_space(4)
HIGHER = Goal((Objective("accuracy"),), (99.0,), "absolute", 0.0)
LOWER = Goal((Objective("loss", higher_is_better=False),), (1.0,), "absolute", 0.0)


def empty(goal: Goal = HIGHER, objective: object = "first") -> History:
    return History(Tuning(SPACE, summary(SPACE), goal), objective)  # type: ignore[arg-type]


def ok(*values: float, model: str | None = None, size: int = 100, n_quantized: int = 4) -> Outcome:
    model = model or f"model of {values} {size}"
    return Outcome("ok", values, model_digest=model, size_bytes=size, n_quantized=n_quantized)


def commit(history: History, outcome: Outcome, candidate: Candidate | None = None) -> Trial:
    number = history.next_number
    return history.commit(history.judge(number, "stage", candidate or SPACE[number % SPACE.size], outcome))


def after(*outcomes: Outcome, goal: Goal = HIGHER, objective: object = "first") -> History:
    history = empty(goal, objective)
    for outcome in outcomes:
        commit(history, outcome)
    return history


def best(history: History) -> int | None:
    return history.best.number if history.best else None


# The best


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([98, 99], 1),  # the first that meets the goal: equality counts
        ([98, 99, 100], 1),  # later ones that are better change nothing
        ([98, 98, 97], 1),  # nobody meets it: the nearest, a tie goes to the later trial
        ([98, 97, 98], 2),
        ([90, 95, 93], 1),
        ([100], 0),
        ([], None),
    ],
)
def test_best_is_the_first_that_meets_the_goal_or_else_the_nearest(metrics, expected):
    assert best(after(*(ok(m, model=str(i)) for i, m in enumerate(metrics)))) == expected


@pytest.mark.parametrize(
    ("metrics", "expected"), [([1.5, 1.0, 0.5], 1), ([1.5, 1.2, 1.2, 1.3], 2), ([float("1e300"), 2.0], 1)]
)
def test_lower_is_better_is_the_mirror_image(metrics, expected):
    assert best(after(*(ok(m, model=str(i)) for i, m in enumerate(metrics)), goal=LOWER)) == expected


def test_weighted_evaluators_are_one_sum():
    goal = Goal((Objective("a", weight=0.5), Objective("b", weight=2.0)), (10.0, 1.0), "absolute", 0.5)
    history = after(ok(9.0, 1.0, model="x"), ok(12.0, 0.5, model="y"), goal=goal)

    assert [t.metric for t in history.trials] == [6.5, 7.0]  # 0.5 a + 2 b, the float model's being 7
    assert [t.meets_goal for t in history.trials] == [True, True]
    assert best(history) == 0


def test_separate_evaluators_must_all_meet_their_targets_and_the_worst_shortfall_decides():
    goal = Goal((Objective("accuracy"), Objective("loss", higher_is_better=False)), (100.0, 1.0))
    history = after(
        ok(100.0, 1.5, model="a"),  # 49 % short in the loss
        ok(90.0, 1.0, model="b"),  # 9 % short in accuracy
        ok(80.0, 0.1, model="c"),  # 19 % short
        goal=goal,
    )
    assert [t.meets_goal for t in history.trials] == [False] * 3
    assert best(history) == 1
    commit(history, ok(99.0, 1.01, model="d"))
    assert best(history) == 3


def test_a_candidate_that_quantizes_nothing_meets_no_goal_and_is_never_best():
    history = after(ok(99.0, model="float", n_quantized=0), ok(50.0))

    assert [(t.meets_goal, t.reason) for t in history.trials] == [
        (False, "no node is quantized"),
        (False, ""),
    ]
    assert (best(history), history.n_counted, history.n_meeting_goal) == (1, 2, 0)


def test_a_trial_without_a_metric_counts_and_is_never_best():
    history = after(
        Outcome("failed", reason="raised"), Outcome("crashed"), Outcome("timeout"), Outcome("out_of_memory")
    )
    assert (best(history), history.n_counted) == (None, 4)
    commit(history, ok(-1e9))
    assert best(history) == 4


def test_the_preferred_trial_is_best_where_it_meets_the_goal():
    history = after(ok(99.0, model="a"), ok(100.0, model="b"), ok(98.0, model="c"))

    history.tuning.prefer(history.row(1))
    assert best(history) == 1
    history.tuning.prefer(history.row(2))
    assert best(history) == 0


def test_an_objective_does_not_ask_what_is_preferred():
    history = after(ok(99.0, size=5), ok(99.5, size=9), objective="size")

    history.tuning.prefer(history.row(1))

    assert best(history) == 0


# Objectives


@pytest.mark.parametrize(
    ("sizes", "metrics", "expected"),
    [
        ([300, 100, 200], [99, 99.5, 100], 1),  # the smallest of those that meet the goal
        ([200, 100, 100], [99, 99.5, 100], 1),  # a tie goes to the lower number
        ([100, 200], [98, 99], 1),  # a small one that misses the goal is nothing
        ([100, 900], [97, 98], 1),  # nobody meets it: the nearest, whatever its size
        ([100, 900], [98, 98], 1),
    ],
)
def test_objective_size_decides_among_those_that_meet_the_goal(sizes, metrics, expected):
    outcomes = [ok(m, size=s) for m, s in zip(metrics, sizes, strict=True)]

    assert best(after(*outcomes, objective="size")) == expected


def test_objective_float_ops_wants_the_fewest_ops_in_float():
    history = empty(objective="float_ops")
    whole = SPACE.default_candidate()

    for candidate in (whole.in_float("conv_0", "conv_1"), whole.in_float("conv_3"), whole.in_float("conv_2")):
        commit(history, ok(99.0, model=candidate.digest), candidate)

    assert best(history) == 1


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"size": 1.0, "float_ops": 0.0}, 0),
        ({"size": 0.0, "float_ops": 1.0}, 1),
        ({"size": 1, "float_ops": 1}, 1),
    ],
)
def test_weights_add_up_ratios_to_the_float_model(weights, expected):
    history = empty(objective=weights)
    whole = SPACE.default_candidate()  # the float model has 1000 bytes and 4 ops

    commit(history, ok(99.0, model="a", size=300), whole.in_float("conv_0"))  # 0.3 and 0.25
    commit(history, ok(99.0, model="b", size=400), whole)  # 0.4 and 0

    assert best(history) == expected


def test_an_unknown_objective_is_named_with_all():
    expected = r'objective: no objective "speed". .*All: first, float_ops, latency, size\.'
    with pytest.raises(InputError, match=expected):
        empty(objective="speed")


# Repeats


def test_a_model_already_measured_refers_to_the_first_and_counts_nothing():
    history = after(ok(99.0, model="a", size=7), ok(50.0, model="b"), ok(12.0, model="a", size=3))

    repeat = history.trials[2]
    assert (repeat.duplicate_of, repeat.status, repeat.metric, repeat.size_bytes) == (0, "ok", 99.0, 7)
    assert (repeat.counts, repeat.eligible, repeat.reason) == (False, False, "same model as trial 0")
    assert (best(history), history.n_counted, history.n_meeting_goal) == (0, 2, 1)


def test_repeats_of_repeats_refer_to_the_first():
    history = after(*(ok(98.0, model="a") for _ in range(4)))

    assert [t.duplicate_of for t in history.trials] == [None, 0, 0, 0]
    assert (best(history), history.n_repeats_in_a_row) == (0, 3)
    commit(history, ok(90.0, model="b"))
    assert history.n_repeats_in_a_row == 0


def test_a_repeat_of_a_failed_model_has_failed_as_well():
    failed = Outcome("failed", model_digest="a", reason="raised", size_bytes=5, n_quantized=1)
    history = after(failed, ok(99.0, model="a"))

    assert [(t.status, t.metric, t.duplicate_of) for t in history.trials] == [
        ("failed", None, None),
        ("failed", None, 0),
    ]
    assert best(history) is None


def test_trials_without_a_model_are_no_repeats_of_each_other():
    history = after(Outcome("failed", reason="a"), Outcome("failed", reason="b"))

    assert [t.duplicate_of for t in history.trials] == [None, None]


def test_a_trial_that_the_jobs_timeout_ended_counts_nothing():
    history = empty()

    history.commit(history.cancelled(0, "stage", SPACE[0]))

    row = history.trials[0]
    assert (row.status, row.reason, row.counts, row.eligible) == ("timeout", "job timeout", False, False)
    assert (history.n_counted, history.n_since_best, history.next_number, best(history)) == (0, 0, 1, None)


def test_trials_since_the_best_count_distinct_models_without_a_better_best():
    history = after(ok(90.0, model="a"), ok(80.0, model="b"), ok(80.0, model="b"), Outcome("failed"))
    assert history.n_since_best == 2
    commit(history, ok(95.0, model="c"))
    assert history.n_since_best == 0


# Oracle: the definition, written over the whole table at once

outcomes = st.lists(
    st.tuples(
        st.sampled_from([97.0, 98.0, 98.5, 99.0, 99.5, None]),  # metric; None: failed
        st.sampled_from("abcdefgh"),  # model
        st.integers(0, 2),  # quantized nodes
        st.integers(1, 3),  # size
    ),
    max_size=12,
)


@given(outcomes, st.sampled_from(["first", "size"]))
def test_best_and_counts_are_those_of_the_definition(drawn, objective):
    first: dict[str, int] = {}
    rows = []
    for number, (metric, model, n_quantized, size) in enumerate(drawn):
        if first.setdefault(model, number) == number:
            rows.append((number, metric, n_quantized, size))
    may_be_best = [r for r in rows if r[1] is not None and r[2] > 0]
    meeting = [r for r in may_be_best if r[1] >= 99.0]
    if meeting:
        expected = min(meeting, key=lambda r: (r[3] if objective == "size" else 0, r[0]))[0]
    else:
        expected = max(may_be_best, key=lambda r: (r[1], r[0]), default=(None,))[0]

    history = after(
        *(
            Outcome("failed" if metric is None else "ok", None if metric is None else (metric,),
                    model_digest=model, size_bytes=size, n_quantized=n_quantized)
            for metric, model, n_quantized, size in drawn
        ),
        objective=objective,
    )  # fmt: skip

    assert best(history) == expected
    assert (history.n_counted, history.n_meeting_goal) == (len(rows), len(meeting))
    assert len(history.trials) == len(drawn)
