"""`disttune compare`: two finished runs side by side, and a gate for CI."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from disttune.cli.application import command
from disttune.cli.report import write_text
from disttune.config.errors import InputError
from disttune.config.nearest import unknown_name
from disttune.report.comparison import Limits, Line, compare, regressions
from disttune.report.formats import markdown_table
from disttune.report.recorded_run import RecordedRun, read_run

EXIT_REGRESSION = 4
_FORMATS = ("table", "markdown", "json")
_HEADER = ("", "before", "after", "change", "may be worse by", "verdict")


@command("compare")
def compare_runs(
    run_a: Annotated[Path, typer.Argument(help="Run directory to compare with.")],
    run_b: Annotated[Path, typer.Argument(help="Run directory that may not be worse.")],
    max_metric_loss: Annotated[
        str, typer.Option(help='Share of the metric that may be lost: 0.01 or 1%; "none": any.')
    ] = "0",
    max_size_growth: Annotated[str, typer.Option(help="The same of the model's size.")] = "none",
    max_latency_growth: Annotated[str, typer.Option(help="The same of its latency ratio.")] = "none",
    max_time_growth: Annotated[str, typer.Option(help="The same of the run's seconds.")] = "none",
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(_FORMATS)}.")] = "table",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; without it: the console.")
    ] = None,
) -> int:
    """Compare two runs: goal, metric, size, latency, time.

    Exit codes: 0 no regression, 4 the second run is worse than allowed (a goal that is no longer met always
    is), 2 wrong input.
    """
    if format_ not in _FORMATS:
        raise InputError(unknown_name("format", format_, _FORMATS))
    limits = Limits(
        _share("--max-metric-loss", max_metric_loss),
        _share("--max-size-growth", max_size_growth),
        _share("--max-latency-growth", max_latency_growth),
        _share("--max-time-growth", max_time_growth),
    )
    before, after = read_run(run_a), read_run(run_b)
    if before.higher_is_better != after.higher_is_better:
        raise InputError(f"{run_a} and {run_b} cannot be compared: higher is better in one of them only")
    lines = compare(before, after, limits)
    _show(lines, before, after, format_, output)
    return EXIT_REGRESSION if regressions(lines) else 0


def _share(option: str, text: str) -> float | None:
    if text == "none":
        return None
    number = text.removesuffix("%")
    try:
        share = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(f'{option} "{text}": it is a share such as 0.05 or 5%, or "none"') from None
    if not 0 <= share < float("inf"):
        raise InputError(f'{option} "{text}": a share is 0 or more')
    return share


def _show(
    lines: Sequence[Line], before: RecordedRun, after: RecordedRun, format_: str, output: Path | None
) -> None:
    rows = [
        (x.name, x.before, x.after, x.change_text, "any" if x.limit is None else f"{x.limit:.2%}", x.verdict)
        for x in lines
    ]
    if format_ == "json":
        content = {"before": str(before.path), "after": str(after.path), "lines": [asdict(x) for x in lines]}
        write_text(json.dumps({**content, "regressed": bool(regressions(lines))}, indent=2) + "\n", output)
    elif format_ == "markdown":
        title = f"## disttune: {after.name} against {before.name}"
        write_text(f"{title}\n\n{markdown_table(_HEADER, rows)}\n", output)
    else:
        table = Table(*_HEADER, title=f"{after.name} against {before.name}")
        for row in rows:
            table.add_row(*row)
        if output is None:
            Console(file=sys.stdout, highlight=False, markup=False, emoji=False).print(table)
        else:
            raise InputError("--output needs --format markdown or json")
