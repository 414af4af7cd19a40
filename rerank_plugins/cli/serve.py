"""`rerank-plugins serve`: a backend as a rerank server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]

_OUT_OF_MEMORY = 70
"""The exit code when single pairs no longer fit into memory: a supervisor restarts the server."""


def serve(
    spec: Annotated[
        str | None,
        typer.Argument(
            help=r"A .toml file, which may hold a table \[server], or a spec. "
            "Else $RERANK_BACKEND, else embedded."
        ),
    ] = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one [8787].")] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that requests may use, the default first; '*' stands for any. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    api_keys_file: Annotated[
        str | None, typer.Option(help="File with a line ID:KEY for each key.")
    ] = None,
    model_process: Annotated[
        bool | None,
        typer.Option(
            "--model-process/--no-model-process",
            help=r"Run a local model in a process of its own \[yes].",
        ),
    ] = None,
    insecure_no_auth: Annotated[
        bool | None,
        typer.Option("--insecure-no-auth", help="Listen on a public address without any key."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve a backend to the clients of Cohere, Jina, Xinference and TEI."""
    from rerank_plugins.server.app import (  # noqa: PLC0415  # needs the extra `server`
        create_app,
        isolated_app,
    )
    from rerank_plugins.server.logs import configure_logs, is_read_by_a_person  # noqa: PLC0415
    from rerank_plugins.server.run import serve as run  # noqa: PLC0415
    from rerank_plugins.server.settings import read_settings  # noqa: PLC0415
    from rerank_plugins.spec import load_backend  # noqa: PLC0415

    flags = {
        "host": host,
        "port": port,
        "model_names": model_name or None,
        "api_keys_file": api_keys_file,
        "model_process": model_process,
        "insecure_no_auth": insecure_no_auth,
    }
    overrides = {name: value for name, value in flags.items() if value is not None}
    file = spec if spec is not None and Path(spec).suffix.lower() == ".toml" else None
    _, settings = read_settings(file, overrides)
    settings.check_exposure()
    log = configure_logs(log_level)
    backend = load_backend(spec)
    create = isolated_app if settings.model_process else create_app
    app = create(backend, settings=settings)
    app.state.metrics.dropped_log_lines = lambda: log.dropped
    failure = run(app, greet=is_read_by_a_person())
    log.flush()
    if failure is not None and log.waiting:
        raise typer.Exit(1)  # nobody reads, so to write the error would take for ever
    if isinstance(failure, MemoryError):
        raise typer.Exit(_OUT_OF_MEMORY)
    if failure is not None:
        raise failure
