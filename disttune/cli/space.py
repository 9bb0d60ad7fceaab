"""`disttune space`: what the tuning space of a job holds."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from disttune.cli.application import command
from disttune.config.job import Job
from disttune.config.job_file import load_job
from disttune.config.toml_text import toml_value
from disttune.space.build import build_space
from disttune.space.capability import load_capability
from disttune.space.space import Space


@command("space")
def space(
    job: Annotated[Path, typer.Argument(help="Job file (TOML).")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key, e.g. quantization.approach=auto.")
    ] = None,
) -> int:
    """Show the tuning space of a job: op types, their options, and how many candidates they make."""
    print_space(space_of(load_job(job, set_ or [])), Console(highlight=False, markup=False, emoji=False))
    return 0


def space_of(job: Job) -> Space:
    """Load the job's model and build its space; nothing is quantized."""
    from disttune.quantize.engine import find_engine
    from disttune.quantize.graph import prepare, read_model
    from disttune.quantize.summary import summarize
    from disttune.runtime.hosts import this_host

    engine = find_engine(job.quantization.engine)
    original = read_model(job.model.path)
    summary = summarize(prepare(original, recipes=job.quantization.fixed_recipes), original)
    capability = load_capability(job.model.target)
    asked = job.quantization.reduce_range
    reduce_range = asked if asked is not None else capability.saturates and this_host().saturates
    return build_space(
        summary,
        capability,
        job.quantization,
        engine.methods,
        approaches=engine.approaches,
        reduce_range=reduce_range,
    )


def print_space(space: Space, console: Console) -> None:
    table = Table("op type", "ops", "options each", "what they are")
    for row in space.describe():
        table.add_row(row.op_type, str(row.n_ops), str(row.n_options), row.options)
    console.print(table)
    for line in recipe_lines(space):
        console.print(line)
    console.print(f"{space.op_wise().size_text} candidates op by op, {space.size_text} with open recipes")
    for warning in space.warnings:
        console.print(f"warning: {warning}")


def recipe_lines(space: Space) -> Iterator[str]:
    """One line for each recipe that is open or that the job or the target sets, and what it means here."""
    for recipe, ops in space.float_recipes.items():
        default = "off" if recipe in space.recipes_off else "on"
        yield f"recipe {recipe}: open, {default} by default; off, it leaves {', '.join(sorted(ops))} in float"
    fixed = defaultdict(list)
    for op, cause in space.in_float.items():
        if cause.startswith("recipes."):
            fixed[cause.removeprefix("recipes.")].append(op)
    for recipe, names in fixed.items():
        yield f"recipe {recipe}: fixed, off; it leaves {', '.join(sorted(names))} in float"
    for recipe, value in space.recipes.items():
        if recipe not in space.alternatives:
            yield f"recipe {recipe}: fixed, {toml_value(value)}"
    for recipe, values in space.alternatives.items():
        listed = ", ".join(toml_value(v) for v in values)
        yield f"recipe {recipe}: {listed}; strategies with a start stage keep the best"
