"""The command line, `rerank-plugins`: its commands, exit codes and error lines."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import rerank_plugins
from rerank_plugins.cli.bench import bench
from rerank_plugins.cli.doctor import doctor
from rerank_plugins.cli.rank import rank
from rerank_plugins.errors import (
    BackendError,
    BackendUnavailable,
    RerankError,
    UnsupportedInputError,
)

__all__ = ["app", "exit_code", "main"]


def exit_code(error: RerankError) -> int:
    """Return the exit code that tells a script what to do about `error`.

    2: fix the command, the configuration or the installation. 3: fix the input. 4: try again
    later. 5: the backend refused, or its answer is not usable. (0 is success, 1 a clean "no":
    nothing kept, or a check that failed.)
    """
    if isinstance(error, UnsupportedInputError):
        return 3
    if isinstance(error, BackendUnavailable):
        return 4
    return 5 if isinstance(error, BackendError) else 2


class _Commands(TyperGroup):
    """Turns what every command may raise into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            returned = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has what it wants, as in `… | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        except RerankError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(exit_code(error)) from error
        return returned


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001  # called by typer
    if wanted:
        typer.echo(f"rerank-plugins {rerank_plugins.__version__}")
        raise typer.Exit


@app.callback()
def _start(
    *,
    debug: Annotated[  # noqa: ARG001  # read by `_Commands`
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[  # noqa: ARG001  # handled by its callback
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Rerank documents with a local model or through a rerank server."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Pipes and files get UTF-8 everywhere; a terminal gets what it can show.
        encoding = None if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="replace")


app.command()(rank)
app.command()(doctor)
app.command()(bench)


def main() -> None:
    """Run the command line."""
    app(prog_name="rerank-plugins")
