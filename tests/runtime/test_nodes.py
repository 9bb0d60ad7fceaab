"""Getting ranks of several nodes ready: who shares rank 0's replica, who fetches a copy, once per node."""

from dataclasses import replace
from pathlib import Path

from disttune.config.job_file import job_from_dict
from disttune.runtime.messages import Functions, Host, OpenFile, SendReplica, Setup
from disttune.runtime.nodes import Addressed, Nodes
from tests.builders import chain

JOB = job_from_dict({"model": {"path": "m.onnx"}}, Path("/jobs"), functions_given=True)
HOME = OpenFile(100, 7)
SETUP = Setup(JOB, Functions(), 1, chain("Conv"), HOME, b"n" * 16)
FILES = {"eval.py": b"def evaluate(model): ..."}


def host(node: str, rank: int) -> Host:
    return Host(node, node, 100 + rank, (0, 1), 2, "cpu")


def nodes(names: str, works: set[int] | None = None) -> Nodes:
    """Ranks on the nodes of these letters: "aab" is two on a, one on b."""
    hosts = {rank: host(name, rank) for rank, name in enumerate(names)}
    threads = {rank: rank + 1 for rank in hosts}
    return Nodes(hosts, threads, SETUP, works if works is not None else set(hosts))


def test_home_is_rank_0s_node_and_away_is_the_rest():
    placed = nodes("abaca")

    assert (placed.home_ranks(), placed.away_ranks()) == ([0, 2, 4], [1, 3])


def test_ranks_at_home_get_rank_0s_replica_and_no_files():
    assert nodes("aba").set_up_home() == [
        Addressed(0, replace(SETUP, n_threads=1)),
        Addressed(2, replace(SETUP, n_threads=3)),
    ]


def test_ranks_away_get_the_files_as_well():
    assert nodes("aba").set_up_away(FILES) == [Addressed(1, replace(SETUP, n_threads=2, files=FILES))]


def test_rank_0_is_set_up_even_where_it_runs_no_trials():
    placed = nodes("aab", works={1, 2})

    assert (placed.home_ranks(), placed.away_ranks()) == ([0, 1], [2])


def test_two_ranks_of_a_foreign_node_fetch_one_copy_and_share_it():
    placed = nodes("abb")
    placed.set_up_away(FILES)

    assert placed.needs_replica(1) == [Addressed(0, SendReplica(1))]
    assert placed.needs_replica(2) == []
    shared = OpenFile(101, 9)
    assert placed.has_replica(1, shared) == [
        Addressed(2, replace(SETUP, n_threads=3, source=shared, files=FILES))
    ]


def test_a_rank_that_cannot_open_its_neighbours_copy_gets_one_for_itself():
    placed = nodes("abb")
    placed.set_up_away(FILES)
    placed.needs_replica(1)
    placed.has_replica(1, OpenFile(101, 9))

    # it could open neither rank 0's nor its neighbour's
    assert placed.needs_replica(2) == [Addressed(0, SendReplica(2))]


def test_each_foreign_node_fetches_its_own_copy():
    placed = nodes("abcbc")
    placed.set_up_away(FILES)

    asked = [message for rank in (1, 2, 3, 4) for message in placed.needs_replica(rank)]

    assert asked == [Addressed(0, SendReplica(1)), Addressed(0, SendReplica(2))]
    assert [m.to for m in placed.has_replica(2, OpenFile(102, 5))] == [4]
    assert [m.to for m in placed.has_replica(1, OpenFile(101, 5))] == [3]


def test_a_rank_at_home_that_cannot_open_the_replica_gets_a_copy_of_its_own():
    placed = nodes("aa")
    placed.set_up_home()

    assert placed.needs_replica(1) == [Addressed(0, SendReplica(1))]
