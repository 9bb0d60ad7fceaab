"""Works between ranks: who is sent what, one copy for each node, export, how far it is told."""

from typing import Any

import pytest

from disttune.quantize.work import Work
from disttune.runtime.messages import OpenFile, ToAgent, ToMaster
from disttune.runtime.start_messages import HaveFile, Host, NeedFile, SendFile
from disttune.runtime.work_messages import (
    CancelWork,
    GoOn,
    KeepResult,
    NeedsWorks,
    ResultKept,
    RunWork,
    UseResult,
    WorkDied,
    WorkDone,
)
from disttune.runtime.works import FIRST_TOLD_S, TOLD_EVERY_S, Works

A = Work("gram", "a", "gram of /fc")
B = Work("solve", "b", "gptq of /fc", needs=("a",))
NONCE = b"n" * 16


class Scene:
    """Works on the nodes of these letters ("aab": two ranks on a, one on b) and what has been sent."""

    def __init__(self, nodes: str):
        hosts = {r: Host(node, node, 100 + r, (0,), 1, "cpu") for r, node in enumerate(nodes)}
        self.sent: list[tuple[int, ToAgent]] = []
        self.told: list[str] = []
        self.warned: list[str] = []
        send = lambda rank, message: self.sent.append((rank, message))  # noqa: E731
        self.works = Works(hosts, send, self.told.append, self.warned.append)

    def take(self) -> list[tuple[int, ToAgent]]:
        sent, self.sent = self.sent[:], []
        return sent

    def hear(self, rank: int, message: ToMaster) -> list[tuple[int, ToAgent]]:
        """What is sent in answer to a message."""
        self.take()
        assert self.works.receive(rank, message)
        return self.take()

    def hands_out(self, *free: int) -> list[tuple[int, ToAgent]]:
        self.take()
        self.works.hand_out(free)
        return self.take()

    def does(self, rank: int, work: Work) -> list[tuple[int, ToAgent]]:
        """A rank does a work and rank 0 keeps the result."""
        self.hands_out(rank)
        self.hear(rank, WorkDone(work.key, {}))
        return self.hear(0, kept(work))


def file(work: Work) -> OpenFile:
    return OpenFile(100, 7, 4096 * int.from_bytes(work.key.encode()), 99)


def kept(work: Work) -> ResultKept:
    return ResultKept(work.key, file(work), NONCE)


def use(work: Work, **changes: Any) -> UseResult:
    return UseResult(work, **{"file": file(work), "nonce": NONCE, **changes})


def test_result_goes_over_rank_0_to_everyone_who_waits_and_they_go_on():
    scene = Scene("aaa")
    scene.hear(1, NeedsWorks(5, (A,)))
    scene.hear(2, NeedsWorks(6, (A,)))
    assert scene.works.waiting == {1, 2}
    assert scene.hands_out(0, 1, 2) == [(0, RunWork(A))]

    assert scene.hear(0, WorkDone("a", {"x": 1})) == [(0, KeepResult("a", {"x": 1}))]
    assert scene.hear(0, kept(A)) == [(1, use(A)), (1, GoOn(5)), (2, use(A)), (2, GoOn(6))]
    assert scene.works.waiting == set()


def test_rank_learns_what_a_work_needs_before_it_each_time():
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.does(0, A)
    scene.hear(0, NeedsWorks(5, (B,)))

    assert scene.hands_out(1) == [(1, use(A)), (1, RunWork(B))]
    scene.hear(1, WorkDone("b", {}))
    scene.hear(0, kept(B))
    assert scene.hear(1, NeedsWorks(8, (A, B))) == [(1, use(A)), (1, use(B)), (1, GoOn(8))]


def test_late_rank_is_served_from_rank_0s_file_without_doing_it_again():
    scene = Scene("aab")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.does(1, A)
    assert scene.hear(2, NeedsWorks(6, (A,))) == [(2, use(A)), (2, GoOn(6))]
    assert scene.hands_out(0, 1, 2) == []


def test_other_node_fetches_a_result_once():
    scene = Scene("abb")
    for rank in (1, 2):
        scene.hear(rank, NeedsWorks(rank, (A,)))
    scene.does(0, A)
    assert scene.hear(1, NeedFile("a")) == [(0, SendFile("a", 1))]
    assert scene.hear(2, NeedFile("a")) == []
    copy = OpenFile(101, 3, 0, 99)
    assert scene.hear(1, HaveFile("a", copy)) == [(2, use(A, file=copy))]


def test_rank_lost_while_it_fetches_leaves_that_to_another_of_its_node():
    scene = Scene("abb")
    for rank in (1, 2):
        scene.hear(rank, NeedsWorks(rank, (A,)))
    scene.does(0, A)
    scene.hear(1, NeedFile("a"))
    scene.hear(2, NeedFile("a"))
    scene.take()

    scene.works.lose(1)

    assert scene.take() == [(0, SendFile("a", 2))]


def test_work_of_a_lost_rank_is_done_by_another_and_its_late_answer_is_dropped():
    scene = Scene("aaa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.hands_out(1)
    scene.works.lose(1)
    assert scene.hands_out(2) == [(2, RunWork(A))]
    assert scene.hear(1, WorkDone("a", {})) == []
    assert scene.hear(2, WorkDone("a", {})) == [(0, KeepResult("a", {}))]


@pytest.mark.parametrize("is_fault", [False, True])
def test_reason_for_no_result_is_learnt_and_a_fault_of_ours_is_told(is_fault: bool):
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.hands_out(1)
    answer = WorkDone("a", None, "singular", is_fault)
    assert scene.hear(1, answer) == [(0, UseResult(A, reason="singular")), (0, GoOn(5))]
    assert scene.warned == (["singular. See logs/rank-1.log"] if is_fault else [])


def test_third_death_over_a_work_lets_those_who_wait_go_on():
    scene = Scene("a")
    scene.hear(0, NeedsWorks(5, (A,)))
    for _ in range(2):
        scene.hands_out(0)
        assert scene.hear(0, WorkDied("a", "signal SIGSEGV")) == []
    scene.hands_out(0)
    learnt, go_on = scene.hear(0, WorkDied("a", "signal SIGSEGV"))
    assert "gram of /fc ended 3 trial processes; the last: signal SIGSEGV" in str(learnt)
    assert go_on == (0, GoOn(5))


def test_export_is_asked_for_again_once_its_works_are_done():
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(None, (A,)))
    assert (scene.works.export_waits, scene.works.waiting) == (True, set())
    assert scene.does(1, A) == [(0, use(A))]
    assert scene.works.take_export()
    assert not scene.works.take_export()


def test_cancelled_trial_ends_its_works_where_they_run():
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.hands_out(1)
    scene.take()
    scene.works.withdraw(0, 5)
    assert scene.take() == [(1, CancelWork("a"))]


def test_end_of_the_search_ends_what_runs():
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.hands_out(1)
    scene.take()
    scene.works.stop()
    assert scene.take() == [(1, CancelWork("a"))]
    assert scene.hands_out(0, 1) == []


def test_long_works_are_told_after_a_moment_and_then_now_and_then():
    scene = Scene("aa")
    works = [Work("solve", str(i), f"gptq of /fc{i}") for i in range(48)]
    scene.hear(0, NeedsWorks(5, tuple(works)))
    for i in range(40):
        scene.hands_out(1)
        scene.works.report(now_s=float(i))
        scene.hear(1, WorkDone(works[i].key, {}))
        scene.hear(0, kept(works[i]))
    assert len(scene.told) == 1 + int((39 - FIRST_TOLD_S) // TOLD_EVERY_S)
    assert scene.told[0] == "solving layers: 2 of 48 (gptq of /fc2)"


def test_works_that_are_done_within_a_moment_are_not_told():
    scene = Scene("aa")
    scene.hear(0, NeedsWorks(5, (A,)))
    scene.hands_out(1)
    scene.works.report(now_s=7.0)
    scene.hear(1, WorkDone("a", {}))
    for second in range(8, 99):
        scene.works.report(now_s=float(second))
    assert scene.told == []


def test_other_messages_are_not_its_business():
    assert not Scene("a").works.receive(0, NeedFile("replica"))
