"""The command line, `rerank-plugins`: its commands, exit codes and error lines."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import rerank_plugins
from rerank_plugins._internal.terminal import escaped
from rerank_plugins.cli.bench import bench
from rerank_plugins.cli.calibrate import calibrate_backend
from rerank_plugins.cli.canary import canary
from rerank_plugins.cli.compare import compare
from rerank_plugins.cli.doctor.command import doctor
from rerank_plugins.cli.eval import evaluate_datasets
from rerank_plugins.cli.lock import lock
from rerank_plugins.cli.output import OutputError
from rerank_plugins.cli.plain_signs import ERRORS
from rerank_plugins.cli.rank import rank
from rerank_plugins.cli.serve import serve
from rerank_plugins.errors import (
    BackendError,
    BackendUnavailable,
    DataError,
    RerankError,
    UnsupportedInputError,
)

__all__ = ["app", "exit_code", "main"]


_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""The base of Typer's errors, which Typer does not export."""

_NAMES = tuple(
    pair
    for name in ("top_n", "min_score", "min_gap", "max_tokens", "count_tokens", "distinct")
    for option in ["--" + name.replace("_", "-")]
    for pair in ((f"`{name}`", option), (f"{name}=", f"{option} "))
)
"""The name of an option in Python → its spelling on the command line."""

_HINTS = {
    "--api-key": "--backend 'KIND+URL?api_key_env=NAME_OF_THE_VARIABLE'",
    "--device": "--backend 'local:MODEL?device={}'",
    "--limit": "--top-n {}",
    "--model": "--backend local:{}",
    "--model-name": "--backend local:{}",
    "--threshold": "--min-score {}",
    "--top-k": "--top-n {}",
    "--url": "--backend xinference+{}?model=UID",
    "-k": "--top-n {}",
    "-m": "--backend local:{}",
}
"""Options of other tools → what to write instead, with their value."""

_SERVE_HINTS = {
    "--api-key": "write a line ID:KEY into a file, and: --api-keys-file FILE",
    "--backend": "write the spec without it: rerank-plugins serve {}",
    "--config": "write the file without it: rerank-plugins serve {}",
    "--device": "write the spec local:MODEL?device={}",
    "--model": "write the spec local:{}",
    "--model-id": "write the spec local:{}",
    "--reload": "start it again after a change; the file of keys is read again by itself",
    "--workers": "one process serves all cores; for several GPUs write the spec "
    "local:MODEL?device=cuda:all, for several machines start one server on each",
}
"""Options of other servers → what to write instead, with their value."""


def exit_code(error: Exception) -> int:
    """Return the exit code for `error`, by which a script decides what to do.

    2: fix the command, the configuration or the installation. 3: fix the input. 4: try again
    later. 5: the backend refused, or its response is not usable. 6: the output can't be written.
    (0 is success; 1 means that nothing was kept, or that a check failed.)
    """
    if isinstance(error, DataError | UnsupportedInputError):
        return 3
    if isinstance(error, BackendUnavailable):
        return 4
    if isinstance(error, BackendError):
        return 5
    return 6 if isinstance(error, OutputError) else 2


class _Commands(TyperGroup):
    """Turns the errors of every command into one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        if debug := "--debug" in words[:end]:  # allowed after the command, too
            options = (word for word in words[:end] if word != "--debug")
            words = ["--debug", *options, *words[end:]]
        try:
            code = super().main(words or ["--help"], *rest, **named | {"standalone_mode": False})
        except BrokenPipeError:
            code = 0
        except typer.Abort:
            code = 130
        except _UsageError as error:
            code = _report(error, _usage_message(error, words), debug=debug)
        except (RerankError, OutputError) as error:
            code = _report(error, _as_options(str(error)), debug=debug)
        sys.exit(code)


def _report(error: Exception, message: str, *, debug: bool) -> int:
    """Write an error as one line; return its exit code."""
    if debug:
        lines = "".join(traceback.format_exception(error)).splitlines()
        typer.echo("\n".join(map(escaped, lines)), err=True)
    typer.echo(f"error: {escaped(' '.join(message.split()))}", err=True)
    return exit_code(error)


def _usage_message(error: Any, words: Sequence[str]) -> str:
    """Return what is wrong with the command, and which help to read."""
    message = str(error.format_message()).replace("Value error, ", "").rstrip(".")
    path = error.ctx.command_path if error.ctx else "rerank-plugins"
    option = str(getattr(error, "option_name", ""))
    known = option.replace("_", "-")
    if path.endswith(" serve"):
        hints = _SERVE_HINTS
    else:
        hints = {name: f"write: {hint}" for name, hint in _HINTS.items()}
    if known in hints:
        value = _value_of(option, words)
        return f"there is no option {option}; {hints[known].format(value)}"
    return f"{message}; see: {path} --help"


def _value_of(option: str, words: Sequence[str]) -> str:
    """Return what follows an option, to be repeated; "…" if nothing does."""
    following = words[words.index(option) + 1 :] if option in words else ()
    return next(iter(following), "…")


def _as_options(message: str) -> str:
    """Replace the names of options by their spelling on the command line."""
    for name, option in _NAMES:
        message = message.replace(name, option)
    return message


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:  # noqa: FBT001  # called by typer
    if requested:
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Pipes and files get UTF-8 everywhere; a terminal gets what it can show.
            is_file = stream is sys.stdout and not stream.isatty()
            stream.reconfigure(encoding="utf-8" if is_file else None, errors=ERRORS)


app.command()(rank)
app.command()(doctor)
app.command()(compare)
app.command()(bench)
app.command("eval")(evaluate_datasets)
app.command("calibrate")(calibrate_backend)
app.command()(canary)
app.command()(serve)
app.command()(lock)


def main() -> None:
    """Run the command line."""
    # As with `python -m`, a file may name a class in the current folder: kind = "module:Class".
    sys.path.append(str(Path.cwd()))
    app(prog_name="rerank-plugins")
