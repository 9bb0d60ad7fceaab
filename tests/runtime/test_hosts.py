"""Cores and threads: ranks with the same mask share it fairly; a launcher's tight binding is told once."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.runtime.hosts import binding_warning, reduced_range, saturates, share_threads, this_host
from disttune.runtime.start_messages import Host


def host(cores: range | tuple[int, ...], n_cores: int = 8, node: str = "a") -> Host:
    return Host(node, node, 1, tuple(cores), n_cores, "cpu")


@pytest.mark.parametrize(
    ("hosts", "threads"),
    [
        ([host(range(8))], [8]),
        ([host(range(8))] * 2, [4, 4]),
        ([host(range(8))] * 3, [2, 2, 2]),
        ([host(range(2))] * 5, [1] * 5),  # more ranks than cores
        ([host(range(4)), host(range(4, 8))], [4, 4]),  # bound to halves
        ([host(range(8)), host(range(8), node="b")], [8, 8]),  # another machine
        ([host(range(8)), host((0,))], [8, 1]),
    ],
)
def test_threads_are_the_cores_of_a_mask_divided_by_its_ranks(hosts, threads):
    assert list(share_threads(dict(enumerate(hosts))).values()) == threads


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 16)), min_size=1, max_size=20))
def test_ranks_never_use_more_cores_than_there_are_unless_each_has_one(drawn):
    hosts = {r: host(range(n), node=node) for r, (node, n) in enumerate(drawn)}

    threads = share_threads(hosts)

    for node, n in set(drawn):
        sharing = [threads[r] for r in hosts if drawn[r] == (node, n)]
        assert sum(sharing) <= max(n, len(sharing))
        assert min(sharing) >= 1


@pytest.mark.parametrize(
    "hosts",
    [
        [host(range(8))],
        [host(range(8))] * 2,
        [host(range(4)), host(range(4, 8))],  # bound to its share
        [host((r % 8,)) for r in range(9)],  # more ranks than cores
    ],
)
def test_ranks_with_their_share_are_not_warned_about(hosts):
    assert binding_warning(dict(enumerate(hosts))) is None


def test_one_bound_rank_is_named_with_the_mend():
    warning = binding_warning({0: host(range(8)), 1: host((3,))})

    assert warning == (
        "rank 1 is bound to 1 of 8 cores where 4 would be its share: "
        'start mpirun with "--bind-to none" (launch/local.sh does)'
    )


def test_several_bound_ranks_are_one_warning():
    warning = binding_warning({r: host((r,)) for r in range(4)})

    assert warning is not None
    assert warning.startswith("rank 0 and 3 others are bound to 1 of 8 cores where 2 would be its share: ")


def test_the_share_counts_the_ranks_of_the_same_node_only():
    hosts = {0: host((0,), node="a"), **{r: host((r,), node="b") for r in range(1, 9)}}

    warning = binding_warning(hosts)

    assert warning is not None
    assert warning.startswith("rank 0 is bound to 1 of 8 cores where 8 would be its share")


def test_this_host_tells_of_this_process():
    here = this_host()

    assert here.pid == os.getpid()
    assert here.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert here.n_cores >= len(here.cores)
    assert here == this_host()
    assert here.cpu


def test_a_node_may_be_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISTTUNE_NODE", "left")

    assert this_host().node == "left"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse4_1 avx avx2", True),
        ("avx2 avx512f avx512bw", True),
        ("avx2 avx_vnni", False),
        ("avx2 avx512f avx512_vnni", False),
        ("avx2 amx_bf16 amx_int8", False),
        ("sse2 ssse3 sse4_1", False),  # its kernels widen the products first
        ("fp asimd asimddp", False),  # ARM
        ("", False),
    ],
)
def test_processors_with_avx2_and_no_vnni_saturate(flags, expected):
    assert saturates(flags.split()) is expected


STRONG = host(range(2))
WEAK = replace(STRONG, saturates=True, cpu="Old CPU")


@pytest.mark.parametrize(
    ("asked", "recorded", "hosts", "decided", "told"),
    [
        (None, None, [STRONG, STRONG], False, ""),
        (None, None, [WEAK], True, "Old CPU has no VNNI and saturates sums"),
        (
            None,
            None,
            [STRONG, WEAK, WEAK],
            True,
            "int8 weights of ops on 8-bit codes take 7 bits on all ranks",
        ),
        (False, None, [WEAK], False, ""),
        (True, None, [STRONG], True, ""),
        (None, True, [WEAK], True, ""),
        (None, True, [STRONG], True, "weights keep the 7 bits decided then"),
        (None, False, [STRONG, WEAK], False, "weights keep the 8 bits decided then"),
    ],
)
def test_one_decision_on_reduced_ranges_holds_for_all_ranks_and_sessions(
    asked, recorded, hosts, decided, told
):
    found, sentence = reduced_range(asked, recorded, dict(enumerate(hosts)))
    assert found is decided
    assert told in sentence
    assert bool(told) == bool(sentence)
