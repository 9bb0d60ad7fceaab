"""Getting every rank ready for trials: the replica, the user's files, the statistics.

Pure but for what it sends. Ranks of rank 0's machine get ready first; those of other nodes once it is known
which of the user's files they need. The statistics pass is spread over all ranks that are loaded by then;
a rank that comes later gets the result. A rank is equipped when it has everything.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from disttune.runtime.calibration import Calibration
from disttune.runtime.messages import OpenFile, ToAgent, ToMaster
from disttune.runtime.sharing import REPLICA, STATISTICS, Addressed, Sharing
from disttune.runtime.start_messages import (
    BlocksMeasured,
    CalibrateBlocks,
    FindStatistics,
    HaveFile,
    HaveStatistics,
    Host,
    MergeStatistics,
    NeedFile,
    Ready,
    Setup,
    StatisticsMerged,
    StatisticsMissing,
    UseStatistics,
)


class Crew:
    """The ranks of a job on their way to work.

    Args:
        hosts: of every rank.
        works: ranks that run trials.
        setup: what rank 0 and its node get; `n_threads` and files differ by rank.
        n_threads: for each rank.
        n_blocks: of samples to calibrate on; 0 for none.
        cache: folder that keeps statistics from one session to the next.
        send: sends a message to an agent.
        phase: tells what is being done.
    """

    def __init__(
        self,
        hosts: Mapping[int, Host],
        works: set[int],
        setup: Setup,
        n_threads: Mapping[int, int],
        n_blocks: int,
        cache: Path,
        send: Callable[[int, ToAgent], None],
        phase: Callable[[str], None],
    ):
        self.works = works
        self._hosts = hosts
        self._setup = setup
        self._n_threads = n_threads
        self._n_blocks = n_blocks
        self._cache = cache
        self._send = send
        self._phase = phase
        self._files: dict[str, bytes] = {}
        self._loaded: list[int] = []
        self._equipped: list[int] = []
        self._calibration: Calibration | None = None
        self._shared = {REPLICA: Sharing(REPLICA, hosts, setup.source, self._setup_for)}

    @property
    def away(self) -> list[int]:
        """Ranks on other nodes than rank 0's."""
        return [r for r in sorted(self.works) if self._hosts[r].node != self._hosts[0].node]

    def start(self) -> None:
        """Set up rank 0 and the ranks of its node, and look for statistics of an earlier session."""
        for rank in sorted(self.works | {0}):
            if self._hosts[rank].node == self._hosts[0].node:
                self._post([self._shared[REPLICA].offer(rank)])
        if self._n_blocks:
            self._send(0, FindStatistics(self._cache))

    def start_away(self, files: dict[str, bytes]) -> None:
        """Set up the other nodes' ranks, with the user's files."""
        self._files = files
        for rank in self.away:
            self._post([self._shared[REPLICA].offer(rank)])

    def receive(self, source: int, message: ToMaster) -> bool:
        """Take in a message; whether it was one about getting ready."""
        match message:
            case Ready():
                self._is_loaded(source)
            case NeedFile() if message.name in self._shared:
                self._post(self._shared[message.name].needs(source))
            case HaveFile() if message.name in self._shared:
                self._post(self._shared[message.name].has(source, message.file))
            case StatisticsMissing():
                self._begin_calibration()
            case BlocksMeasured():
                self._block_measured(source, message)
            case StatisticsMerged():
                self._merged(message)
            case HaveStatistics():
                self._is_equipped(source)
            case _:
                return False
        return True

    def lose(self, rank: int) -> None:
        """A rank is gone: its block goes to another.

        Raises:
            DisttuneError: several ranks were lost over one block.
        """
        self.works.discard(rank)
        if rank in self._loaded:
            self._loaded.remove(rank)
        for sharing in self._shared.values():
            self._post(sharing.lose(rank))
        if self._calibration is not None and not self._calibration.complete:
            self._hand_out(self._calibration.lost(rank))

    @property
    def loading(self) -> list[int]:
        """Ranks that have not loaded the job yet."""
        return sorted(self.works - set(self._loaded))

    def take_equipped(self) -> list[int]:
        """Ranks that have become ready for trials since the last call."""
        equipped, self._equipped = self._equipped, []
        return equipped

    def _is_loaded(self, rank: int) -> None:
        self._loaded.append(rank)
        if not self._n_blocks:
            self._is_equipped(rank)
        elif STATISTICS in self._shared:
            self._post([self._shared[STATISTICS].offer(rank)])
        elif self._calibration is not None and not self._calibration.complete:
            self._hand_out(self._calibration.join(rank))

    def _is_equipped(self, rank: int) -> None:
        if rank in self.works:
            self._equipped.append(rank)

    def _begin_calibration(self) -> None:
        self._phase(f"calibrating on {self._n_blocks} block(s) of samples")
        self._calibration = Calibration(self._n_blocks, len(self.works))
        for rank in list(self._loaded):
            self._hand_out(self._calibration.join(rank))

    def _block_measured(self, rank: int, message: BlocksMeasured) -> None:
        calibration = self._calibration
        assert calibration is not None
        self._hand_out(calibration.measured(rank, message.blocks, message.part))
        if calibration.complete:
            self._send(0, MergeStatistics(tuple(calibration.parts), self._cache))

    def _merged(self, message: StatisticsMerged) -> None:
        def tell(rank: int, source: OpenFile) -> ToAgent:  # noqa: ARG001
            return UseStatistics(source, message.nonce)

        self._calibration = None  # its parts are large
        self._shared[STATISTICS] = Sharing(STATISTICS, self._hosts, message.file, tell)
        for rank in self._loaded:
            self._post([self._shared[STATISTICS].offer(rank)])

    def _setup_for(self, rank: int, source: OpenFile) -> Setup:
        is_home = self._hosts[rank].node == self._hosts[0].node
        return replace(
            self._setup,
            n_threads=self._n_threads[rank],
            source=source,
            files=None if is_home else self._files,
        )

    def _hand_out(self, handed: list[tuple[int, range]]) -> None:
        for rank, blocks in handed:
            self._send(rank, CalibrateBlocks(blocks))

    def _post(self, messages: list[Addressed]) -> None:
        for addressed in messages:
            self._send(addressed.to, addressed.message)
