"""Getting every rank ready: who shares rank 0's files, who fetches a copy, who calibrates what."""

from dataclasses import replace
from pathlib import Path

import pytest

from disttune.config.errors import DisttuneError
from disttune.config.job_file import job_from_dict
from disttune.runtime.calibration import MOST_BLOCKS, Calibration
from disttune.runtime.crew import Crew
from disttune.runtime.messages import OpenFile, ToAgent
from disttune.runtime.start_messages import (
    BlocksMeasured,
    CalibrateBlocks,
    FindStatistics,
    Functions,
    HaveFile,
    HaveStatistics,
    Host,
    MergeStatistics,
    NeedFile,
    Ready,
    SendFile,
    Setup,
    StatisticsMerged,
    StatisticsMissing,
    UseStatistics,
)
from tests.builders import chain

JOB = job_from_dict({"model": {"path": "m.onnx"}}, Path("/jobs"), functions_given=True)
HOME = OpenFile(100, 7)
SETUP = Setup(JOB, Functions(), 1, chain("Conv"), HOME, b"n" * 16)
FILES = {"eval.py": b"def evaluate(model): ..."}
CACHE = Path("/run/cache")


class Scene:
    """A crew on the nodes of these letters ("aab": two ranks on a, one on b) and what it has sent."""

    def __init__(self, nodes: str, works: set[int] | None = None, n_blocks: int = 0):
        hosts = {r: Host(node, node, 100 + r, (0, 1), 2, "cpu") for r, node in enumerate(nodes)}
        self.sent: list[tuple[int, ToAgent]] = []
        self.crew = Crew(
            hosts,
            set(hosts) if works is None else works,
            SETUP,
            {r: r + 1 for r in hosts},
            n_blocks,
            CACHE,
            lambda rank, message: self.sent.append((rank, message)),
            lambda text: None,
        )

    def take(self) -> list[tuple[int, ToAgent]]:
        sent, self.sent = self.sent[:], []
        return sent

    def hear(self, rank: int, message: object) -> list[tuple[int, ToAgent]]:
        """What is sent in answer to a message."""
        self.take()
        assert self.crew.receive(rank, message)  # type: ignore[arg-type]
        return self.take()


def test_ranks_at_home_get_rank_0s_replica_and_no_files():
    scene = Scene("aba")
    scene.crew.start()
    assert scene.take() == [(0, replace(SETUP, n_threads=1)), (2, replace(SETUP, n_threads=3))]


def test_ranks_away_get_the_files_as_well():
    scene = Scene("aba")
    scene.crew.start_away(FILES)
    assert scene.crew.away == [1]
    assert scene.take() == [(1, replace(SETUP, n_threads=2, files=FILES))]


def test_rank_0_is_set_up_even_where_it_runs_no_trials():
    scene = Scene("aab", works={1, 2})
    scene.crew.start()
    assert [rank for rank, _ in scene.take()] == [0, 1]
    scene.hear(0, Ready())
    scene.hear(1, Ready())
    assert scene.crew.take_equipped() == [1]


def test_two_ranks_of_a_foreign_node_fetch_one_copy_and_share_it():
    scene = Scene("abb")
    scene.crew.start_away(FILES)
    assert scene.hear(1, NeedFile("replica")) == [(0, SendFile("replica", 1))]
    assert scene.hear(2, NeedFile("replica")) == []
    shared = OpenFile(101, 9)
    assert scene.hear(1, HaveFile("replica", shared)) == [
        (2, replace(SETUP, n_threads=3, source=shared, files=FILES))
    ]


def test_a_rank_that_cannot_open_its_neighbours_copy_gets_one_for_itself():
    scene = Scene("abb")
    scene.hear(1, NeedFile("replica"))
    scene.hear(1, HaveFile("replica", OpenFile(101, 9)))
    assert scene.hear(2, NeedFile("replica")) == [(0, SendFile("replica", 2))]


def test_each_foreign_node_fetches_its_own_copy():
    scene = Scene("abcbc")
    asked = [m for rank in (1, 2, 3, 4) for m in scene.hear(rank, NeedFile("replica"))]
    assert asked == [(0, SendFile("replica", 1)), (0, SendFile("replica", 2))]
    assert [rank for rank, _ in scene.hear(2, HaveFile("replica", OpenFile(102, 5)))] == [4]


def calibrating(nodes: str, n_blocks: int) -> Scene:
    """All ranks loaded, no statistics of an earlier session."""
    scene = Scene(nodes, n_blocks=n_blocks)
    scene.crew.start()
    assert (0, FindStatistics(CACHE)) in scene.take()
    for rank in range(len(nodes)):
        assert scene.hear(rank, Ready()) == []
    return scene


def test_blocks_are_spread_over_the_ranks_and_merged_in_order():
    scene = calibrating("aa", n_blocks=3)
    first, second, third = (range(i, i + 1) for i in range(3))
    begun = [(0, CalibrateBlocks(first)), (1, CalibrateBlocks(second))]
    assert scene.hear(0, StatisticsMissing("new")) == begun
    assert scene.hear(1, BlocksMeasured(second, "part 1")) == [(1, CalibrateBlocks(third))]
    assert scene.hear(1, BlocksMeasured(third, "part 2")) == []
    merge = MergeStatistics(("part 0", "part 1", "part 2"), CACHE)
    assert scene.hear(0, BlocksMeasured(first, "part 0")) == [(0, merge)]


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
def test_every_block_is_measured_once_in_shares_that_become_smaller(n_ranks):
    calibration = Calibration(40, n_ranks)
    running = [handed for rank in range(n_ranks) for handed in calibration.join(rank)]
    shares = []
    while running:
        rank, blocks = running.pop(0)
        shares.append(blocks)
        running += calibration.measured(rank, blocks, blocks)
    assert calibration.complete
    assert [i for part in calibration.parts for i in part] == list(range(40))
    assert sorted(map(len, shares), reverse=True) == [len(blocks) for blocks in shares]
    assert max(map(len, shares)) == min(40 // (2 * n_ranks - 1), MOST_BLOCKS)


def test_blocks_of_a_lost_rank_are_measured_one_by_one():
    calibration = Calibration(4, 1)
    assert calibration.join(0) == [(0, range(4))]
    assert calibration.lost(0) == []
    assert calibration.join(1) == [(1, range(1))]


def test_ranks_are_equipped_once_they_have_the_statistics():
    scene = calibrating("aa", n_blocks=1)
    merged = StatisticsMerged(OpenFile(100, 8), b"s" * 16)
    assert scene.hear(0, merged) == [(rank, UseStatistics(merged.file, merged.nonce)) for rank in (0, 1)]
    assert scene.crew.take_equipped() == []
    scene.hear(1, HaveStatistics())
    assert scene.crew.take_equipped() == [1]
    assert scene.crew.take_equipped() == []


def test_a_rank_that_comes_late_gets_the_statistics_at_once():
    scene = calibrating("a", n_blocks=1)
    scene.hear(0, StatisticsMerged(OpenFile(100, 8), b"s" * 16))
    assert isinstance(scene.hear(0, Ready())[0][1], UseStatistics)


def test_a_block_of_a_lost_rank_goes_to_another():
    scene = calibrating("aaa", n_blocks=2)
    scene.hear(0, StatisticsMissing("new"))
    scene.crew.lose(1)
    assert scene.take() == [(2, CalibrateBlocks(range(1, 2)))]
    assert scene.hear(1, BlocksMeasured(range(1, 2), "late")) == []


def test_a_block_that_costs_three_ranks_ends_the_job():
    scene = calibrating("aaaa", n_blocks=1)
    scene.hear(0, StatisticsMissing("new"))
    scene.crew.lose(0)
    scene.crew.lose(1)
    with pytest.raises(DisttuneError, match="3 ranks were lost"):
        scene.crew.lose(2)


def test_other_messages_are_not_its_business():
    assert not Scene("a").crew.receive(0, object())  # type: ignore[arg-type]
