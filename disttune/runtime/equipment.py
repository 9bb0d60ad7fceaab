"""What a rank's trial process must be told before it can work, now and after each restart.

The replica, the statistics and the results of works are in memory files: of this agent, of another one of
the node, or fetched from rank 0.
"""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from disttune.quantize.work import Work
from disttune.runtime.memory_files import ArrivingFile, MemoryFiles
from disttune.runtime.messages import OpenFile, ToMaster
from disttune.runtime.result_files import ResultFiles
from disttune.runtime.scratch import Scratch
from disttune.runtime.sharing import REPLICA, STATISTICS
from disttune.runtime.start_messages import (
    FileBytes,
    HaveFile,
    Load,
    LoadStatistics,
    NeedFile,
    Setup,
    UseStatistics,
)
from disttune.runtime.work_messages import KeepResult, LearnResults, ResultKept, UseResult

PART_BYTES = 2**28


class Equipment:
    """Of one rank.

    Args:
        tell: sends a message to the master.
        hand: sends a message to the trial process.
    """

    def __init__(self, tell: Callable[[ToMaster], None], hand: Callable[[object], None]):
        self._tell = tell
        self._hand = hand
        self._files = MemoryFiles()
        self._results = ResultFiles()
        self._scratch = Scratch()
        self._setup: Setup | None = None
        self._loads: dict[str, Load | LoadStatistics] = {}
        self._fetched: dict[str, Work] = {}  # on their way, by key
        self._known: dict[str, tuple[Work, OpenFile | str]] = {}
        self._to_hand: list[tuple[Work, OpenFile | str]] = []
        self._arriving: dict[str, ArrivingFile] = {}

    @property
    def is_fetching(self) -> bool:
        """Whether a result that something here needs is on its way."""
        return bool(self._fetched)

    def new(self, name: str) -> OpenFile:
        """An empty memory file for the trial process to fill."""
        return self._files.new(name)

    def set_up(self, message: Setup) -> None:
        self._setup = message
        self._open(REPLICA, message.source, message.nonce)

    def use_statistics(self, message: UseStatistics) -> None:
        self._open(STATISTICS, message.source, message.nonce)

    def use_result(self, message: UseResult) -> None:
        """Take note of a result, and ask for it if it is in no file of this node.

        One that is known already is handed over again: an engine may forget what it has not used for long.
        """
        key = message.work.key
        if message.file is None:
            self._know(message.work, message.reason)
        elif self._results.open(key, message.file, message.nonce):
            self._know(message.work, self._results.file(key))
        else:
            self._fetched[key] = message.work
            self._tell(NeedFile(key))

    def keep_result(self, message: KeepResult) -> None:
        nonce = self._results.keep(message.key, message.results)
        self._tell(ResultKept(message.key, self._results.file(message.key), nonce))

    def take_bytes(self, message: FileBytes) -> None:
        """A file, or a part of it, has come from another node."""
        name = message.name
        if not message.is_last or name in self._arriving:
            self._arriving.setdefault(name, ArrivingFile()).add(message.data)
            if message.is_last:
                self._files.adopt(name, self._arriving.pop(name).finished())
                self._arrived(name)
        elif name in self._fetched:
            self._results.keep_bytes(name, message.data)
            self._tell(HaveFile(name, self._results.file(name)))
            self._know(self._fetched.pop(name), self._results.file(name))
        else:
            self._files.keep(name, message.data)
            self._arrived(name)

    def bytes_of(self, name: str) -> list[FileBytes]:
        """A file for another node: in parts when it is large (MPI counts bytes in 31 bits)."""
        if name in self._results:
            return [FileBytes(name, self._results.raw(name))]
        # no memoryview: Python 3.11 crashes when it finds one of those behind a PickleBuffer in a cycle
        raw: Any = np.frombuffer(self._files.raw(name), np.uint8)
        parts = [pickle.PickleBuffer(raw[i : i + PART_BYTES]) for i in range(0, len(raw), PART_BYTES)]
        return [FileBytes(name, part, is_last=part is parts[-1]) for part in parts]

    def hand_results(self) -> None:
        """Tell the idle trial process the results that it is to use."""
        if self._to_hand:
            self._hand(LearnResults(tuple(self._to_hand)))
            self._to_hand = []

    def hand_again(self) -> None:
        """Tell a new trial process everything."""
        for load in self._loads.values():
            self._hand(load)
        self._to_hand = list(self._known.values())

    def close(self) -> None:
        self._scratch.remove()
        self._files.close()
        self._results.close()

    def _arrived(self, name: str) -> None:
        self._tell(HaveFile(name, self._files.file(name)))
        self._load(name)

    def _know(self, work: Work, result: OpenFile | str) -> None:
        self._known[work.key] = work, result
        self._to_hand.append((work, result))

    def _open(self, name: str, source: OpenFile, nonce: bytes) -> None:
        """Open what another process of this node holds, or ask for the bytes."""
        if self._files.open(name, source, nonce):
            self._load(name)
        else:
            self._tell(NeedFile(name))

    def _load(self, name: str) -> None:
        file = self._files.file(name)
        self._loads[name] = LoadStatistics(file) if name == STATISTICS else self._load_of(file)
        self._hand(self._loads[name])

    def _load_of(self, replica: OpenFile) -> Load:
        setup = self._setup
        assert setup is not None
        folder = setup.job.folder if setup.files is None else self._scratch.write(setup.files)
        return Load(setup.job, setup.functions, setup.n_threads, replica, folder, setup.summary)
