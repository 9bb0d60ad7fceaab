"""How a job's time goes down with ranks: speed-up, efficiency, and whether the results are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from disttune.report.recorded_run import RecordedRun

# Columns of trials.csv that say how a run went, not what it found.
_HOW = frozenset({"seconds", "rank", "latency_ratio", "latency_spread"})


@dataclass(frozen=True)
class Measured:
    """One run of a benchmark.

    Args:
        n_ranks: it ran on.
        seconds: of the whole command, start-up included.
        run: what it came to.
    """

    n_ranks: int
    seconds: float
    run: RecordedRun

    def speed_up(self, first: "Measured") -> float:
        """Times as fast as another."""
        return first.seconds / self.seconds

    def efficiency(self, first: "Measured") -> float:
        """Speed-up as a share of the growth in ranks."""
        return self.speed_up(first) * first.n_ranks / self.n_ranks


def differing(runs: Sequence[Measured]) -> list[Measured]:
    """The runs whose trial table is not that of the first."""
    tables = [[{k: v for k, v in row.items() if k not in _HOW} for row in m.run.rows] for m in runs]
    return [m for m, table in zip(runs, tables, strict=True) if table != tables[0]]


def as_benchmark_entries(job: str, runs: Sequence[Measured]) -> list[dict[str, Any]]:
    """For benchmark actions of CI: entries of which smaller is better."""
    entries: list[dict[str, Any]] = [
        {"name": f"{job}: time on {m.n_ranks} rank(s)", "unit": "s", "value": round(m.seconds, 3)}
        for m in runs
    ]
    size = runs[0].run.size_bytes
    if size is not None:
        entries.append({"name": f"{job}: size of the best model", "unit": "bytes", "value": int(size)})
    return entries
