"""`rerank-plugins lock`: record the sha256 of each file of local models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._internal.whole_files import write_whole
from rerank_plugins.cli.output import OutputError, printing

__all__ = ["lock"]


def lock(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Specs of local models, or .toml files."),
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=r"File to write \[standard output].")
    ] = None,
) -> None:
    r"""Record the files of local models; `model_lock` of \[server] then refuses all others."""
    from rerank_plugins.backends.local.lockfile import lock_of  # noqa: PLC0415  # a little heavy
    from rerank_plugins.spec import load_backend  # noqa: PLC0415

    text = json.dumps(lock_of([load_backend(spec) for spec in specs]), indent=2) + "\n"
    if output is None:
        with printing():
            sys.stdout.write(text)
        return
    try:
        write_whole({output: text})
    except OSError as error:
        raise OutputError(f"can't write {str(output)!r}: {error.strerror or error}") from error
