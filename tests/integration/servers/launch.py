"""Start a real server in a process group of its own, wait until it answers, stop it."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FOLDER", "Server", "ask", "descendants", "environment", "serving"]

FOLDER = "RERANK_TEST_SERVERS"
REQUIRED = "RERANK_TEST_SERVERS_REQUIRED"

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
    "OMP_NUM_THREADS": "2",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    name: str
    url: str
    log: Path
    """The file that holds all it printed."""
    process: subprocess.Popen[bytes]

    def tail(self, lines: int = 40) -> str:
        """Return the end of what the server printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self, *others: int) -> None:
        """End the server and all it started, at once, and `others` by their process number."""
        started = [*descendants(self.process.pid), *others]
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in started:  # Xinference's supervisor has a process group of its own
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


def descendants(process: int) -> list[int]:
    """Return the numbers of the processes that a process started, and that these started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    processes = [process]
    for one in processes:
        processes += [child for child, parent in parents.items() if parent == one]
    return processes[1:]


def environment(name: str) -> Path:
    """Return the virtual environment of a server; skip the test, or fail it, if there is none."""
    folder = Path(os.environ.get(FOLDER, "")) / name
    if FOLDER in os.environ and (folder / "pins.txt").exists():
        return folder.resolve() / "bin"
    reason = f"{name} is not installed in {FOLDER}={os.environ.get(FOLDER, '')}"
    if os.environ.get(REQUIRED, "0") not in ("", "0"):
        pytest.fail(f"{reason}, and {REQUIRED} is set")
    pytest.skip(reason)


@contextmanager
def serving(
    name: str,
    command: Sequence[str | Path],
    *,
    port: int,
    health: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    within: float = 300.0,
) -> Iterator[Server]:
    """Run `command` in `folder` until the block ends; begins when `GET health` answers 200.

    The server gets a process group of its own, so that Ctrl-C reaches the test run first and
    the test run ends the server with everything the server started.

    Raises:
        RuntimeError: it ended, or did not answer `within` so many seconds; with its last lines.
    """
    log = folder / f"{name}-{port}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, **_ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(name, f"http://127.0.0.1:{port}", log, process)
    try:
        _wait(server, health, within)
        yield server
    finally:
        _stop(server)


def _wait(server: Server, health: str, within: float) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if (code := server.process.poll()) is not None:
            raise RuntimeError(f"{server.name} ended with status {code}\n{server.tail()}")
        try:
            with urllib.request.urlopen(server.url + health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{server.name} did not answer within {within} s\n{server.tail()}")


def _stop(server: Server) -> None:
    """Ask the server to end, give it a moment, and end what is left of all it started."""
    started = descendants(server.process.pid)
    server.process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(timeout=8)
    server.kill(*started)


def ask(url: str, body: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """POST `body` as JSON, as an administrator would, and return the answer."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=900) as response:
        answer: dict[str, Any] = json.load(response)
        return answer
