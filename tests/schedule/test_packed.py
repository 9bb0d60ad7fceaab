"""Trials measured without packed weights: what may be best is measured again, and that counts."""

from dataclasses import replace

from disttune.schedule.events import Assign, Commit, Evaluate, ModelBuilt, Note, TaskDone
from tests.schedule.test_scheduler import A, B, ok, started


def test_what_may_be_best_is_measured_again_and_that_counts():
    scheduler, given_out = started(1, A, B)
    first = given_out[0].assignment
    scheduler.handle(ModelBuilt(0, first, "a", 0.5))

    commands = scheduler.handle(TaskDone(0, first, replace(ok(0.7, "a"), packed=False), 1.0))
    again = next(c for c in commands if isinstance(c, Assign))
    assert again.task == given_out[0].task
    assert not any(isinstance(c, Commit) for c in commands)
    asked = scheduler.handle(ModelBuilt(0, again.assignment, "a", 1.5))
    assert asked == [Evaluate(0, again.assignment, packed=True)]
    commands = scheduler.handle(TaskDone(0, again.assignment, ok(0.65, "a"), 2.0))

    rows = [c.trial for c in commands if isinstance(c, Commit)]
    assert [(r.number, r.metric) for r in rows] == [(0, 0.65)]
    assert any("0.65" in c.text and "0.7" in c.text for c in commands if isinstance(c, Note))
    scheduler.check_invariants()


def test_a_worse_one_is_not_measured_again():
    scheduler, given_out = started(1, A, B)
    first = given_out[0].assignment
    scheduler.handle(ModelBuilt(0, first, "a", 0.5))
    commands = scheduler.handle(TaskDone(0, first, ok(0.7, "a"), 1.0))
    second = next(c for c in commands if isinstance(c, Assign))
    scheduler.handle(ModelBuilt(0, second.assignment, "b", 1.5))

    commands = scheduler.handle(TaskDone(0, second.assignment, replace(ok(0.2, "b"), packed=False), 2.0))

    assert [c.trial.metric for c in commands if isinstance(c, Commit)] == [0.2]
