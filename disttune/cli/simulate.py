"""`disttune simulate`: what a recorded run would take on other numbers of ranks."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from disttune.cli.application import command
from disttune.cli.rank_counts import rank_counts
from disttune.config.errors import InputError
from disttune.report import wording
from disttune.runtime.journal import read_journal
from disttune.runtime.recorded_job import recorded_job
from disttune.runtime.run_directory import RunDirectory
from disttune.schedule.forecast import Cluster, Forecast, forecast
from disttune.schedule.recorded_job import RecordedJob

WHOLE = ("goal", "find_n", "patience", "max_trials", "strategy", "space")  # stop reasons that leave nothing
LEGEND = (
    "shares of the ranks' time. efficiency: building and evaluating what counts;",
    "stage ends: waiting for the last items; look-ahead: begun and thrown away;",
    "messages: between two trials; failures: of nodes, how many in brackets",
)


@command("simulate")
def simulate(
    run: Annotated[Path, typer.Argument(help="Run directory, or a journal.jsonl; the run may still go on.")],
    ranks: Annotated[str, typer.Option(help="Numbers of ranks.")] = "1,8,64,512,4096",
    ranks_per_node: Annotated[
        int | None, typer.Option(help="Ranks that fail together; default: as recorded.")
    ] = None,
    mtbf_hours: Annotated[
        float | None, typer.Option(help="Mean time between failures of a node; default: none fails.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the failures.")] = 0,
    message_us: Annotated[float, typer.Option(help="Microseconds of the master for each message.")] = 50.0,
) -> int:
    """Show how long a recorded search would take on other numbers of ranks, and where time would be lost.

    The recorded stages and durations go through the scheduler itself; modelled are messages, start-up (as
    long as it was recorded) and failing nodes. Nothing of the job is loaded or run: a journal will do.
    """
    counts = rank_counts(ranks)
    if ranks_per_node is not None and ranks_per_node < 1:
        raise InputError(f"--ranks-per-node {ranks_per_node}: it is at least 1")
    if mtbf_hours is not None and not mtbf_hours > 0:
        raise InputError(f"--mtbf-hours {mtbf_hours:g}: it is a time above 0")
    if not 0 <= message_us < float("inf"):
        raise InputError(f"--message-us {message_us:g}: it is a time of at least 0")
    path = run if run.is_file() else RunDirectory(run).journal_file
    job = recorded_job(read_journal(path), path)
    per_node = ranks_per_node or max(1, job.n_ranks // job.n_nodes)
    clusters = [Cluster(n, per_node, message_us * 1e-6, mtbf_hours=mtbf_hours, seed=seed) for n in counts]
    _show(job, [forecast(job, cluster) for cluster in clusters], mtbf_hours)
    return 0


def _show(job: RecordedJob, forecasts: list[Forecast], mtbf_hours: float | None) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    trials = f"{len(job.trials)} measured trials and {len(job.probes)} probes in {len(job.stages)} stages"
    console.print(f"recorded on {job.n_ranks} rank(s): {trials},")
    console.print(f"{job.mean_trial_s:.3g} s a trial on average")
    if job.stop_reason not in WHOLE:
        console.print("the recorded search has not come to its end: this is what it has measured so far")
    failing = ("failures",) if mtbf_hours is not None else ()
    columns = ("ranks", "time", "efficiency", "start-up", "stage ends", "look-ahead", "messages", *failing)
    table = Table(*columns, box=box.SIMPLE, padding=(0, 0))
    for f in forecasts:
        lost = [f.startup_s, f.waiting_s, f.discarded_s, f.messages_s]
        cells = [f"{f.share(seconds):.1%}" for seconds in lost]
        failed = [f"{f.share(f.failures_s):.1%} ({f.n_failures})"] if failing else []
        table.add_row(str(f.n_ranks), wording.duration(f.time_s), f"{f.efficiency:.1%}", *cells, *failed)
    console.print(table)
    for line in LEGEND:
        console.print(line)
