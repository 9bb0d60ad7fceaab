"""The trial process's part of calibrating: measure a block, merge all blocks, keep the result on disk."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from disttune.config.errors import DisttuneError
from disttune.config.job import Job
from disttune.evaluate.data import Feeds
from disttune.quantize.digest import model_digest
from disttune.quantize.freed_memory import give_back_freed
from disttune.quantize.statistics.collect import Collector, blocks, tensors_of_interest
from disttune.quantize.statistics.statistics import Statistics
from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import Replica, write_replica
from disttune.space.capability import load_capability

FORMAT = 2  # of what is measured: a change of it makes older files unknown


class StatisticsWork:
    """Statistics of one prepared model over one set of calibration feeds.

    Args:
        prepared: the float model whose tensors are measured.
        feeds: all calibration samples.
        job: says target, placement, providers and the size of a block.
        n_threads: of a run.
    """

    def __init__(self, prepared: onnx.ModelProto, feeds: Feeds, job: Job, n_threads: int):
        self._prepared = prepared
        self._feeds = feeds
        self._job = job
        self._n_threads = n_threads
        self._placement = job.quantization.placement or load_capability(job.model.target).placement
        self._blocks = blocks(feeds.feeds, job.calibration.block_samples)
        self._collector: Collector | None = None

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def measure(self, blocks: range) -> dict[str, Any]:
        """Statistics of some blocks that follow one another, as plain arrays.

        Raises:
            DataError: a tensor holds NaN; names tensor and sample.
        """
        if self._collector is None:
            tensors = tensors_of_interest(self._prepared, self._placement, self._job.model.target)
            providers = self._job.model.providers
            self._collector = Collector(
                self._prepared, tensors, n_threads=self._n_threads, providers=providers
            )
        first, last = self._blocks[blocks[0]], self._blocks[blocks[-1]]
        before = self._feeds.feeds[: first.start]
        first_sample = sum(len(next(iter(f.values()))) if self._feeds.batched else 1 for f in before)
        return self._collector.collect(self._feeds.feeds[first.start : last.stop], first_sample).to_arrays()

    def find(self, folder: Path) -> tuple[Statistics | None, str]:
        """What an earlier session kept, or why it cannot be used."""
        return Statistics.load(self._file(folder))

    def merge(self, parts: Sequence[Mapping[str, Any]], folder: Path) -> Statistics:
        """Statistics of all blocks, given in order; they are kept in the folder if it takes them."""
        self._collector = None  # its sessions are large
        give_back_freed()
        merged = Statistics.merged([Statistics.from_arrays(part) for part in parts])
        try:
            folder.mkdir(exist_ok=True)
            merged.save(self._file(folder))
        except (OSError, DisttuneError) as error:  # into the rank's log: a resume will calibrate again
            sys.stderr.write(f"statistics are not kept for a resume: {error}\n")
        return merged

    def _file(self, folder: Path) -> Path:
        """Named by everything that the statistics depend on."""
        calibration, target = self._job.calibration, self._job.model.target
        text = (
            f"{FORMAT}/{model_digest(self._prepared)}/{self._feeds.digest}/{calibration.block_samples}/"
            f"{target}/{self._placement}"
        )
        return folder / f"statistics-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.npz"


def fill(file: OpenFile, parts: Mapping[str, Any]) -> bytes:
    """Write parts into the agent's empty memory file; returns its nonce."""
    descriptor = os.open(f"/proc/{file.pid}/fd/{file.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return write_replica(descriptor, parts)
    finally:
        os.close(descriptor)


def arrays(replica: Replica) -> dict[str, Any]:
    """All parts, not copied."""
    return {name: replica.array(name) for name in replica.names()}


def mapped(file: OpenFile) -> Replica:
    """The agent's memory file, mapped."""
    descriptor = os.open(f"/proc/{file.pid}/fd/{file.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Replica(descriptor, file.offset, file.n_bytes)
    finally:
        os.close(descriptor)
