"""Progress and result on the console: one line for each thing that happened, plain or as JSON."""

import json
import time
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from disttune.report import wording
from disttune.runtime.listener import Opening
from disttune.runtime.result import TuningResult
from disttune.strategy.trial import Trial

PROGRESS_EVERY_S = 10.0


class ConsoleReport:
    """Lines for a person.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO):
        # names and paths may hold brackets and colons: neither is markup here
        self._console = Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._said_s = time.monotonic()
        self._max_trials = 0

    def phase(self, text: str) -> None:
        self._say(f"  {text}")

    def opened(self, opening: Opening) -> None:
        self._max_trials = opening.max_trials
        self._say(
            f"  {opening.n_ranks} rank(s) on {opening.n_nodes} node(s); run directory {opening.run_directory}"
        )
        self._say(f"  {wording.goal(opening.goal)}")
        self._say(
            f"  strategy {opening.strategy}: {opening.space.op_wise().size_text} candidates of "
            f"{len(opening.space.ops)} ops, at most {opening.max_trials} trials"
        )
        if opening.n_resumed:
            self._say(f"  resumed: {opening.n_resumed} trials are already measured")

    def stage_opened(self, name: str) -> None:
        self._say(f"stage: {name}")

    def committed(self, trial: Trial, best: Trial | None) -> None:
        mark = "*" if best is not None and best.number == trial.number else " "
        facts = (
            ""
            if trial.duplicate_of is not None
            else (f", {wording.size(trial.size_bytes)}, {wording.duration(trial.seconds)}, rank {trial.rank}")
        )
        self._say(f"{mark} trial {trial.number:<3} {wording.outcome(trial)}{facts}")

    def progress(self, n_committed: int, n_running: int, elapsed_s: float) -> None:
        if time.monotonic() - self._said_s >= PROGRESS_EVERY_S:
            self._say(
                f"  ... {n_committed} of at most {self._max_trials} trials, {n_running} running, "
                f"{wording.duration(elapsed_s)}"
            )

    def noted(self, text: str) -> None:
        self._say(f"  {text}")

    def warned(self, text: str) -> None:
        self._say(f"warning: {text}")

    def finished(self, result: TuningResult, best_path: str) -> None:
        """The result, as a table."""
        self._console.print(_result_table(result, wording.printable(best_path, self._encoding)))

    def _say(self, text: str) -> None:
        self._said_s = time.monotonic()
        self._console.print(wording.printable(text, self._encoding))


class JsonReport:
    """The same as JSON objects, one a line, for machines.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def phase(self, text: str) -> None:
        self._write("phase", text=text)

    def opened(self, opening: Opening) -> None:
        space = opening.space.op_wise()
        self._write(
            "opened",
            run_directory=opening.run_directory,
            ranks=opening.n_ranks,
            nodes=opening.n_nodes,
            strategy=opening.strategy,
            candidates=space.size if space.size < 2**53 else space.size_text,
            baseline=opening.goal.baseline_metric,
            goal=opening.goal.target,
            resumed=opening.n_resumed,
        )

    def stage_opened(self, name: str) -> None:
        self._write("stage", name=name)

    def committed(self, trial: Trial, best: Trial | None) -> None:
        self._write(
            "trial",
            trial=trial.number,
            status=trial.status,
            metric=trial.metric,
            meets_goal=trial.meets_goal,
            size_bytes=trial.size_bytes,
            seconds=trial.seconds,
            rank=trial.rank,
            duplicate_of=trial.duplicate_of,
            best=best.number if best else None,
            reason=trial.reason,
        )

    def progress(self, n_committed: int, n_running: int, elapsed_s: float) -> None:
        self._write("progress", trials=n_committed, running=n_running, seconds=round(elapsed_s, 3))

    def noted(self, text: str) -> None:
        self._write("note", text=text)

    def warned(self, text: str) -> None:
        self._write("warning", text=text)

    def finished(self, result: TuningResult, best_path: str) -> None:
        self._write("result", best_path=best_path, **result.to_dict())

    def _write(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}, allow_nan=False), file=self._stream, flush=True)


def _result_table(result: TuningResult, best_path: str) -> Table:
    table = Table(
        title=f"{result.status.replace('_', ' ')} ({result.stop_reason})",
        show_header=False,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_row("float model", f"{result.baseline.metric:.6g}, {wording.size(result.baseline.size_bytes)}")
    table.add_row("goal", f"{result.goal:.6g}")
    if result.best is None:
        table.add_row("best", "no trial has a metric")
    else:
        best = result.best
        assert best.size_bytes is not None
        ratio = best.size_bytes / result.baseline.size_bytes
        table.add_row(
            "best",
            f"trial {best.trial}: {best.metric:.6g}, {wording.size(best.size_bytes)} "
            f"({ratio:.0%} of the float model)",
        )
        candidate = next(t.candidate for t in result.trials if t.number == best.trial)
        if best.latency is not None:
            table.add_row("latency", wording.latency(best.latency))
        table.add_row("how", str(candidate))
        table.add_row("model", best_path)
    failed = sum(t.counts and t.metric is None for t in result.trials)
    trials = f"{result.n_trials} measured" + (f", {failed} of them without a metric" if failed else "")
    table.add_row("trials", f"{trials}, {len(result.trials) - result.n_trials} repeats or cut short")
    table.add_row("time", f"{wording.duration(result.seconds)} on {result.n_ranks} rank(s)")
    return table
