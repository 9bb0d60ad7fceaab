"""Silence of a rank: from its first word on, and told once."""

from disttune.runtime.heartbeats import Heartbeats


def test_a_rank_counts_as_silent_once_the_time_is_over():
    beats = Heartbeats(30.0)
    beats.heard(1, 0.0)
    beats.heard(2, 20.0)

    assert [beats.silent(s) for s in (30.0, 30.5, 51.0)] == [[], [1], [1, 2]]


def test_a_rank_that_has_not_said_a_word_is_still_starting():
    assert Heartbeats(1.0).silent(1e9) == []


def test_the_silence_of_a_lost_rank_is_no_news():
    beats = Heartbeats(30.0)
    beats.heard(1, 0.0)
    beats.forget(1)

    assert beats.silent(100.0) == []
