"""A split trial: who scores which of its blocks, and what is left to score.

Pure. Blocks are handed out from the first to the last, in runs whose length only time decides; the metric
does not depend on how they were cut.
"""

from dataclasses import dataclass, field

OVERDUE = 3.0  # times what a part should take: then another rank scores it as well


@dataclass(frozen=True, slots=True)
class _Run:
    blocks: range
    started_s: float


@dataclass(eq=False)
class Parts:
    """Blocks of one trial.

    Args:
        n_blocks: of samples.
        model_digest: of the model that the first rank has built; no other counts.
        evaluation_s: that the whole should take.
    """

    n_blocks: int
    model_digest: str
    evaluation_s: float
    takes_helpers: bool = True
    workers: set[int] = field(default_factory=set)  # that have scored something
    _waiting: list[range] = field(default_factory=list)  # in order
    _running: dict[int, _Run] = field(default_factory=dict)  # by rank
    _scored: dict[int, range] = field(default_factory=dict)  # by first block
    _n_scored: int = 0
    _lost_nodes: list[object] = field(default_factory=list)
    _scoring_s: float = 0.0

    def __post_init__(self) -> None:
        self._waiting.append(range(self.n_blocks))

    @property
    def complete(self) -> bool:
        """Whether all blocks are scored."""
        return self._n_scored == self.n_blocks

    @property
    def n_running(self) -> int:
        """Ranks that score something now."""
        return len(self._running)

    @property
    def block_s(self) -> float:
        """What a block takes: as measured of this trial, else as expected."""
        return self._scoring_s / self._n_scored if self._n_scored else self.evaluation_s / self.n_blocks

    @property
    def n_waiting(self) -> int:
        """Blocks that nobody has begun."""
        return sum(map(len, self._waiting))

    @property
    def waiting_s(self) -> float:
        """What they should take."""
        return self.n_waiting * self.block_s

    def take(self, rank: int, n: int, now_s: float, may_repeat: bool = True) -> range | None:
        """The next blocks for a rank, at most n; with none left, those overdue elsewhere, or nothing."""
        if self._waiting:
            blocks: range | None = self._next(n)
        else:
            blocks = self._overdue(now_s) if may_repeat else None
        if blocks is not None:
            self._running[rank] = _Run(blocks, now_s)
        return blocks

    def done(self, rank: int, scoring_s: float) -> None:
        """A rank has scored what it took."""
        blocks = self._running.pop(rank).blocks
        if blocks.start in self._scored:
            return  # another was faster
        self._scored[blocks.start] = blocks
        self._n_scored += len(blocks)
        self._scoring_s += scoring_s
        self.workers.add(rank)

    def lose(self, rank: int, node: object) -> bool:
        """A rank is gone: what it had begun waits again, unless another has it as well.

        Once ranks of two nodes were lost, no more are called to help: it may be this trial that ends them.

        Returns:
            Whether it is the first one lost of its node.
        """
        run = self._running.pop(rank, None)
        others = [other.blocks for other in self._running.values()]
        if run is not None and run.blocks.start not in self._scored and run.blocks not in others:
            self._waiting = sorted([*self._waiting, run.blocks], key=_first_block)
        is_first = all(node is not other for other in self._lost_nodes)
        if is_first:
            self._lost_nodes.append(node)
            self.takes_helpers = self.takes_helpers and len(self._lost_nodes) < 2
        return is_first

    def _next(self, n: int) -> range:
        first = self._waiting.pop(0)
        if n < len(first):
            self._waiting.insert(0, first[n:])
        return first[:n]

    def _overdue(self, now_s: float) -> range | None:
        late = [(r.started_s, r.blocks.start, r.blocks) for r in self._running.values()]
        for started_s, start, blocks in sorted(late, key=lambda run: run[:2]):
            is_late = now_s - started_s > OVERDUE * self.block_s * len(blocks)
            if is_late and start not in self._scored:
                return blocks
        return None

    def is_overdue(self, now_s: float) -> bool:
        """Whether a part takes so long that another rank should score it as well."""
        return not self._waiting and self._overdue(now_s) is not None


def _first_block(blocks: range) -> int:
    return blocks.start
