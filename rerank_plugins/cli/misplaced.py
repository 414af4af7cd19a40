"""A backend that stands where a command takes datasets or files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import typer

from rerank_plugins.errors import RerankError
from rerank_plugins.spec import load_backend

__all__ = ["refuse_backends"]

_LOST_SLASH = re.compile(r"(?<=http:/|ttps:/)(?=[^/])", re.IGNORECASE)
"""Where a path has lost one of the two slashes of a URL."""


def refuse_backends(names: Iterable[str | Path], *, what: str) -> None:
    """Refuse each name that is a backend's spec; a file or a folder of that name is none.

    Args:
        names: what was given as datasets or files.
        what: what they should be, as in "dataset".

    Raises:
        typer.BadParameter: there is a backend among them; the message tells how to write it.
    """
    for name in map(str, names):
        if name == "-" or (Path(name).exists() and not name.lower().endswith(".toml")):
            continue
        spec = _LOST_SLASH.sub("/", name)
        with suppress(RerankError):
            load_backend(spec).close()
            raise typer.BadParameter(f"{spec!r} is a backend, no {what}; write: --backend {spec}")
        if re.match("https?://", spec, re.IGNORECASE):
            raise typer.BadParameter(
                f"{spec!r} is an address, no {what}; for the server there write: "
                f"--backend KIND+{spec}"
            )
