"""How many ranks there are, by the environment; worlds of one rank that do not know each other."""

import sys
from types import ModuleType

import pytest

from disttune.config.errors import InputError
from disttune.runtime import world
from disttune.runtime.transport.local import LocalTransport
from disttune.runtime.world import LAUNCHED_VARIABLES, join_world, launched_ranks


@pytest.fixture(autouse=True)
def not_launched(monkeypatch: pytest.MonkeyPatch):
    for name in LAUNCHED_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "n_ranks"),
    [
        ({}, 0),
        ({"HOME": "/root", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "64"}, 0),  # a batch script, no step of it
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "2"}, 2),
        ({"SLURM_STEP_NUM_TASKS": "16"}, 16),
        ({"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "8"}, 8),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"PMIX_RANK": "3"}, 1),  # launched, the size is the library's to tell
        ({"PMI_RANK": "0"}, 1),
        ({"PMI_SIZE": ""}, 1),
        ({"PMI_SIZE": "many"}, 1),
    ],
)
def test_launchers_tell_the_number_of_ranks(environment, n_ranks):
    assert launched_ranks(environment) == n_ranks


def test_without_a_launcher_this_process_is_the_job_and_mpi_is_not_loaded():
    before = set(sys.modules)

    transport = join_world()

    assert isinstance(transport, LocalTransport)
    assert (transport.rank, transport.size) == (0, 1)
    assert not {m for m in set(sys.modules) - before if m.startswith("mpi4py")}


class NoLibrary:
    def __init__(self) -> None:
        raise RuntimeError("cannot load MPI library")


class Alone:
    rank, size = 0, 1


def transports(monkeypatch: pytest.MonkeyPatch, transport: type) -> None:
    """Let the MPI transport be this class."""
    module = ModuleType("disttune.runtime.transport.mpi")
    module.MpiTransport = transport  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(world, "_library", lambda: "MPICH 4.2")


def test_launched_ranks_without_an_mpi_library_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch):
    transports(monkeypatch, NoLibrary)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(InputError) as caught:
        join_world()
    assert str(caught.value) == (
        "a launcher started 4 ranks, but mpi4py finds no MPI library (cannot load MPI library): install one, "
        'for example with pip install "disttune[mpi]", and use its mpirun'
    )


def test_one_launched_rank_needs_no_mpi_library(monkeypatch: pytest.MonkeyPatch):
    transports(monkeypatch, NoLibrary)
    monkeypatch.setenv("PMI_SIZE", "1")

    assert isinstance(join_world(), LocalTransport)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_worlds_of_one_rank_each_are_recognised(variable: str, monkeypatch: pytest.MonkeyPatch):
    transports(monkeypatch, Alone)
    monkeypatch.setenv(variable, "4")
    with pytest.raises(InputError) as caught:
        join_world()
    assert str(caught.value).startswith("a launcher started 4 ranks, but each is a world of its own: ")
    assert "MPICH 4.2" in str(caught.value)
    assert "launch/local.sh" in str(caught.value)


def test_a_launched_world_of_one_rank_is_fine(monkeypatch: pytest.MonkeyPatch):
    transports(monkeypatch, Alone)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")

    assert isinstance(join_world(), Alone)
