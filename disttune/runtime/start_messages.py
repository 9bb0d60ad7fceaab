"""What ranks say to each other, and an agent to its trial process, until all can run trials.

Frozen dataclasses, as in `messages`: hosts, the loaded job, the user's files, the replica, statistics.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disttune.config.goal import Objective
from disttune.config.job import Job
from disttune.runtime.messages import OpenFile, ToAgent, ToMaster
from disttune.space.summary import ModelSummary


@dataclass(frozen=True, slots=True)
class Host:
    """What a rank tells of its machine.

    Args:
        name: host name.
        node: equal for ranks of one machine and process space.
        pid: of the agent.
        cores: logical cores this rank may use (its affinity mask).
        n_cores: cores of the machine that any process of this job could use.
        cpu: model name of the processor.
        saturates: whether sums of two products of uint8 and int8 saturate on it.
        started_ticks: when the agent was started, in clock ticks since boot; 0 where it is not told.
        replica_folder: where the replica's file is when the machine has no memory files; else empty.
    """

    name: str
    node: str
    pid: int
    cores: tuple[int, ...]
    n_cores: int
    cpu: str
    saturates: bool = False
    started_ticks: int = 0
    replica_folder: str = ""


# Agent to master


@dataclass(frozen=True, slots=True)
class Hello(ToMaster):
    host: Host


@dataclass(frozen=True, slots=True)
class Ready(ToMaster):
    """The replica is open and the trial process knows the job."""


@dataclass(frozen=True, slots=True)
class NeedFile(ToMaster):
    """The memory file of this name could not be opened here: send the bytes."""

    name: str


@dataclass(frozen=True, slots=True)
class HaveFile(ToMaster):
    """This rank holds a copy that others on its node can open."""

    name: str
    file: OpenFile


@dataclass(frozen=True, slots=True)
class Prepared(ToMaster):
    """Rank 0's trial process has loaded and checked the job.

    Args:
        summary: of the prepared model.
        engine_methods: threshold and weight methods that the engine can do, with the data there are.
        engine_approaches: ways to quantize an op that it can do.
        objectives: of the evaluators.
        digests: of "model", "data" and "code".
        versions: of the packages that decide the result.
        warnings: to be told once.
        n_blocks: of samples to calibrate on, 0 when the engine asks for no statistics.
        n_sample_blocks: that a trial can be split into, 0 when it cannot.
        nonce: first bytes of the replica it has written.
        replica_fd: descriptor of the replica in the agent.
    """

    summary: ModelSummary
    engine_methods: frozenset[str]
    engine_approaches: frozenset[str]
    objectives: tuple[Objective, ...]
    digests: dict[str, str]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    n_blocks: int = 0
    n_sample_blocks: int = 0
    nonce: bytes = b""
    replica_fd: int = -1


@dataclass(frozen=True, slots=True)
class BaselineMeasured(ToMaster):
    """The float model's metrics; `late_code` are the user's files that were imported only meanwhile."""

    values: tuple[float, ...]
    seconds: float
    late_code: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlocksMeasured(ToMaster):
    """Statistics of the samples of some blocks, as plain arrays."""

    blocks: range
    part: Any


@dataclass(frozen=True, slots=True)
class StatisticsMissing(ToMaster):
    """There are none of an earlier session, or they cannot be used."""

    reason: str


@dataclass(frozen=True, slots=True)
class StatisticsMerged(ToMaster):
    """Rank 0's memory file holds the statistics."""

    file: OpenFile
    nonce: bytes


@dataclass(frozen=True, slots=True)
class HaveStatistics(ToMaster):
    """This rank's trial process has the statistics."""


@dataclass(frozen=True, slots=True)
class FilesCollected(ToMaster):
    """User files that other nodes need, by path relative to the job's folder."""

    files: dict[str, bytes]


# Master to agent


@dataclass(frozen=True, slots=True)
class Functions:
    """What `autotune()` was handed; empty for a job file.

    Args:
        pickled: {"eval_fn": ..., "feeds": [...]}, by cloudpickle.
        code_digest: over the source of the functions.
        sys_path: where the caller finds its modules.
    """

    pickled: bytes = b""
    code_digest: str = ""
    sys_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare(ToAgent):
    """Load and check everything, and fill the replica (rank 0 only)."""

    job: Job
    functions: Functions
    n_threads: int
    replica: OpenFile | None = None


@dataclass(frozen=True, slots=True)
class MeasureBaseline(ToAgent):
    """Evaluate the float model (rank 0 only)."""


@dataclass(frozen=True, slots=True)
class CollectFiles(ToAgent):
    """Gather what other nodes need of the user's files (rank 0 only)."""


@dataclass(frozen=True, slots=True)
class Setup(ToAgent):
    """Everything a rank needs before its first task.

    Args:
        job: settings.
        functions: the user's functions when they do not come from files.
        n_threads: cores for one evaluation.
        summary: of the prepared model.
        source: replica that may be this node's.
        nonce: its first bytes: opening it works only on the same node and process space.
        files: user files to write to scratch, for a rank that does not share rank 0's disk; else None.
    """

    job: Job
    functions: Functions
    n_threads: int
    summary: ModelSummary
    source: OpenFile
    nonce: bytes
    files: dict[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class SendFile(ToAgent):
    """Send your memory file of this name to another rank."""

    name: str
    to: int


@dataclass(frozen=True, slots=True)
class FileBytes(ToAgent):
    """A memory file, or a part of it: parts come in order.

    Args:
        name: of the file.
        data: bytes of it.
        is_last: whether the file is whole now.
    """

    name: str
    data: Any
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class CalibrateBlocks(ToAgent):
    """Measure the statistics of some blocks of samples."""

    blocks: range


@dataclass(frozen=True, slots=True)
class FindStatistics(ToAgent):
    """Look for the statistics of an earlier session (rank 0 only)."""

    folder: Path
    file: OpenFile | None = None


@dataclass(frozen=True, slots=True)
class MergeStatistics(ToAgent):
    """Merge the parts of all blocks, keep them on disk and in a memory file (rank 0 only)."""

    parts: tuple[Any, ...]
    folder: Path
    file: OpenFile | None = None


@dataclass(frozen=True, slots=True)
class UseStatistics(ToAgent):
    """The statistics are in this memory file, which may be this node's; `nonce` tells."""

    source: OpenFile
    nonce: bytes


# Agent to trial process, beside the messages that are passed on


@dataclass(frozen=True, slots=True)
class Load:
    """What the trial process needs before its first task; `folder` is where relative names are looked up."""

    job: Job
    functions: Functions
    n_threads: int
    replica: OpenFile
    folder: Path
    summary: ModelSummary


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to Load."""


@dataclass(frozen=True, slots=True)
class LoadStatistics:
    """Where the trial process finds the statistics."""

    file: OpenFile


@dataclass(frozen=True, slots=True)
class StatisticsLoaded:
    """The answer to LoadStatistics."""
