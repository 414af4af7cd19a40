"""The progress bar of commands that score many queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["progress"]


@contextmanager
def progress(messages: Console, name: str, total: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar; yield the function to call after each query."""
    from rich.markup import escape  # noqa: PLC0415  # errors need no rich
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    ) as shown:
        task = shown.add_task(f"{escape(name)}: queries", total=total)
        yield lambda: shown.advance(task)
