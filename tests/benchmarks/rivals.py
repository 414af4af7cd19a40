"""Rerank servers on the same model: ours, the one of the guides, Infinity and Xinference."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.servers.launch import Server, serving
from tests.integration.servers.programs import infinity, xinference
from tests.support.ports import free_port

__all__ = ["RIVALS", "Rival", "started"]

_MODEL = "reranker"


@dataclass(frozen=True, slots=True)
class Rival:
    """A running server, and its requests."""

    server: Server
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def _ours(model: Path, folder: Path, _: Path) -> Iterator[Rival]:
    port = free_port()
    file = folder / "rerank.toml"
    file.write_text(
        f'[backend]\nkind = "local"\nmodel = "{model}"\n\n[server]\nport = {port}\n'
        "queue_seconds = 120.0\nrequest_seconds = 120.0\n"  # the others let everyone wait
    )
    command = [sys.executable, "-m", "rerank_plugins", "serve", file]
    with serving("ours", command, port=port, health="/readyz", folder=folder) as server:
        yield Rival(server, "/v1/rerank")


def _guide(handler: str) -> Callable[[Path, Path, Path], object]:
    @contextmanager
    def guide(model: Path, folder: Path, _: Path) -> Iterator[Rival]:
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "guide:app", "--port", str(port)]
        command += ["--app-dir", str(Path(__file__).parent), "--log-level", "warning"]
        settings = {"MODEL": str(model), "HANDLER": handler}
        name = f"guide-{handler.replace(' ', '-')}"
        with serving(
            name, command, port=port, health="/health", folder=folder, environment=settings
        ) as server:
            yield Rival(server, "/rerank")

    return guide


@contextmanager
def _infinity(model: Path, folder: Path, servers: Path) -> Iterator[Rival]:
    binaries = servers / "infinity" / "bin"
    with infinity(binaries, {_MODEL: model}, folder=folder) as server:
        yield Rival(server, "/rerank", {"model": _MODEL})


@contextmanager
def _xinference(model: Path, folder: Path, servers: Path) -> Iterator[Rival]:
    with xinference(servers / "xinference" / "bin", folder=folder) as running:
        running.launch(_MODEL, model)
        headers = {"Authorization": f"Bearer {running.key('benchmark', model_type='rerank')}"}
        yield Rival(running.server, "/v1/rerank", {"model": _MODEL}, headers)


RIVALS = {
    "rerank-plugins serve": _ours,
    "guide, async def": _guide("async def"),
    "guide, def": _guide("def"),
    "Infinity": _infinity,
    "Xinference": _xinference,
}


@contextmanager
def started(model: Path, folder: Path, servers: Path | None) -> Iterator[dict[str, Rival]]:
    """Run all servers at once; without `servers`, the folder of their environments, only ours
    and the guides'."""
    with ExitStack() as stack:
        rivals = {}
        for name, start in RIVALS.items():
            if servers is None and start in (_infinity, _xinference):
                continue
            home = folder / re.sub(r"\W+", "-", name)
            home.mkdir()
            rivals[name] = stack.enter_context(start(model, home, servers or folder))
        yield rivals
