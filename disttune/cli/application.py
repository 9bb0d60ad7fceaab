"""The application: finds the commands, runs one, turns what it raises into a message and an exit code."""

import contextlib
import importlib
import os
import pkgutil
from collections.abc import Callable
from typing import Annotated, Any

import typer

import disttune
from disttune.config.errors import DisttuneError

# How launchers tell a process its rank. Only rank 0 reads the command line of these commands.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"disttune {disttune.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="disttune",
    epilog="Without a command: tunes ./disttune.toml when there is one.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Find the quantized model that meets your accuracy goal, with every rank of an MPI job."""


def command(name: str, hidden: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: make a function the command of this name; its docstring is the help."""
    return app.command(name, hidden=hidden)


def run_alone(given: list[str]) -> int:
    """A command of rank 0 alone; returns the exit code."""
    return _run(given) if _launched_rank() == 0 else 0


def run_on_all_ranks(given: list[str]) -> int:
    """A command that every rank has a part in; returns the exit code."""
    code = _serve() if _launched_rank() > 0 else _run(given)
    _leave(code)
    return code


def _run(given: list[str]) -> int:
    """One command line, as rank 0."""
    try:
        _import_commands(given[0])
        code = app(given, prog_name="disttune", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except DisttuneError as error:
        _say(str(error))
        return error.exit_code
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a mistake in the command line
            error.show()
            return int(error.exit_code)
        raise


def _leave(code: int) -> None:
    """End the ranks in order; rank 0 may have found a mistake before it joined the others."""
    from disttune.runtime.world import has_joined, launched_ranks, leave_world

    if launched_ranks() < 2:
        return
    if not has_joined():
        from disttune.api.tune_job import dismiss
        from disttune.runtime.world import join_world

        with contextlib.suppress(DisttuneError):
            transport = join_world()
            dismiss(transport, code, "rank 0 had nothing to tune")
            transport.close()
    leave_world(code)


def _launched_rank() -> int:
    ranks = [os.environ.get(name, "") for name in RANK_VARIABLES]
    return next((int(rank) for rank in ranks if rank.isdigit()), 0)


def _serve() -> int:
    """Every rank but 0: rank 0 says what there is to say."""
    from disttune.api.tune_job import serve
    from disttune.runtime.world import join_world

    try:
        transport = join_world()
        try:
            serve(transport)
        finally:
            transport.close()
    except DisttuneError:
        return 0  # rank 0 ends last, with the code
    return 0


def _import_commands(name: str) -> None:
    """The command of this name, where its file has that, too; else all of them."""
    package = importlib.import_module("disttune.cli")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    for module in [name] if name in modules else modules:
        importlib.import_module(f"disttune.cli.{module}")


def _say(text: str) -> None:
    typer.echo(f"disttune: {text}", err=True)
