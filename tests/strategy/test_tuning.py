"""What decides which of two trials is better, and what a strategy can say."""

from dataclasses import replace

import pytest

from disttune.config.goal import Goal, Objective
from disttune.schedule.events import Commit, Note
from disttune.schedule.exit_policy import ExitPolicy
from disttune.schedule.simulation import SimulatedJob, plain_summary, simulate
from disttune.strategy import Stage, Trial, Tuning
from tests.simulated import Listed, small_space

SPACE = small_space(4)


def tuning(**options):
    goal = Goal((Objective("accuracy"),), (0.9,), "absolute", 0.0)
    return Tuning(SPACE, plain_summary(SPACE), goal, **options)


def trial(number, value, index=0, **facts):
    met = value is not None and value >= 0.9
    values = None if value is None else (value,)
    row = Trial(number, "s", SPACE[index], "ok", values, value, met, size_bytes=100, n_quantized=4)
    return replace(row, **facts)


@pytest.mark.parametrize(("options", "rows", "best"), [
    ({}, [trial(0, 0.5), trial(1, 0.8), trial(2, 0.7)], 1),
    ({}, [trial(0, 0.8), trial(1, 0.8), trial(2, 0.7)], 1),  # the later on a tie
    ({}, [trial(0, 0.5), trial(1, 0.91), trial(2, 0.99)], 1),  # the first that meets it
    ({"weights": {"size": 1.0}}, [trial(0, 0.95), trial(1, 0.91, size_bytes=5), trial(2, 0.5)], 1),
    ({"weights": {"size": 1.0}}, [trial(0, 0.95), trial(1, 0.91)], 0),  # the lower number on a tie
    ({"measure": lambda c: (c == SPACE[3],)}, [trial(0, 0.95), trial(1, 0.91, 3), trial(2, 0.99, 3)], 1),
    ({"measure": lambda c: (c == SPACE[3],)}, [trial(0, 0.95), trial(1, 0.5, 3)], 0),
    ({}, [trial(0, None), trial(1, 0.95, n_quantized=0), trial(2, 0.1)], 2),  # no metric, nothing quantized
])  # fmt: skip
def test_the_best_of_some_rows(options, rows, best):
    assert tuning(**options).best_of(rows).number == best


def test_none_is_best_of_nothing():
    assert tuning().best_of([trial(0, None)]) is None


def test_a_preferred_repeat_stands_for_what_it_repeats():
    state = tuning()
    state.prefer(trial(3, 0.95, duplicate_of=1))
    assert state.preferred == 1


def test_what_counts_uses_up_the_budget():
    state = tuning(max_trials=10)
    state.trials += [
        trial(0, 0.5),
        trial(1, 0.5, duplicate_of=0),
        trial(2, None, cancelled=True),
        trial(3, None),
    ]
    assert state.n_trials_left == 8


class Talkative:
    def stages(self, tuning):
        tuning.note("before the first stage")
        yield Stage("one", iter(self.items(tuning)))
        tuning.note("after it")

    def items(self, tuning):
        tuning.note("while it is drawn")
        yield tuning.space[0]


def test_notes_are_told_once_in_order():
    commands = simulate(SimulatedJob(Talkative, SPACE, lambda c: 0.5)).commands
    told = [c.text for c in commands if isinstance(c, Note)]
    assert told == ["before the first stage", "while it is drawn", "after it"]
    assert [isinstance(c, Commit) for c in commands].index(True) < commands.index(Note("after it"))


def test_the_greatest_measure_is_best_among_those_that_meet_the_goal():
    class Measured(Listed):
        def stages(self, tuning):
            tuning.prefer_most(lambda c: (SPACE.index(c),))
            yield from super().stages(tuning)

    metrics = {SPACE[0].digest: 0.95, SPACE[1].digest: 0.91, SPACE[2].digest: 0.5}
    job = SimulatedJob(
        lambda: Measured(Stage("all", [SPACE[0], SPACE[1], SPACE[2]])),
        SPACE,
        lambda c: metrics[c.digest],
        policy=ExitPolicy("budget"),
    )
    assert simulate(job).best == 1


def test_a_repeat_of_a_repeat_refers_to_the_first():
    job = SimulatedJob(
        lambda: Listed(Stage("all", [SPACE[0], SPACE[1], SPACE[1]])),
        SPACE,
        lambda c: 0.5,
        policy=ExitPolicy("budget"),
        model=lambda c: "the same",
    )
    assert [row[7] for row in simulate(job).table] == [None, 0, 0]


def test_a_space_of_which_something_else_was_tried_as_well_is_not_used_up():
    small = small_space(1)
    everything = Listed(Stage("all", list(small)))
    more = Listed(Stage("all", [*small, small[0].in_float("conv_0")]))
    for strategy, reason in ((everything, "space"), (more, "strategy")):
        job = SimulatedJob(lambda strategy=strategy: strategy, small, lambda c: 0.5)
        assert simulate(job).finish.stop_reason == reason
