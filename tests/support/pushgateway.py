"""A double of Prometheus' Pushgateway, with what PUT and POST mean there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["Gateway", "pushgateway"]


@dataclass
class Gateway:
    """What a Pushgateway holds: a group per path, and in it the metrics by name."""

    url: str
    groups: dict[str, dict[str, Metric]] = field(default_factory=dict)

    def push(self, method: str, path: str, text: str) -> None:
        """Take a push: PUT replaces the whole group, POST the metrics of the same names."""
        from prometheus_client.parser import (  # noqa: PLC0415  # needs the extra `prometheus`
            text_string_to_metric_families,
        )

        pushed = {family.name: family for family in text_string_to_metric_families(text)}
        group = {} if method == "PUT" else self.groups.get(path, {})
        self.groups[path] = {**group, **pushed}

    def values(self, path: str) -> dict[str, float]:
        """Return the name and value of each sample of a group."""
        return {
            sample.name: sample.value
            for family in self.groups[path].values()
            for sample in family.samples
        }


@contextmanager
def pushgateway() -> Iterator[Gateway]:
    """Serve a Pushgateway that holds nothing yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            gateway.push(self.command, self.path, body.decode())
            self.send_response(200)
            self.end_headers()

        do_PUT = do_POST  # noqa: N815  # the name that the base class looks for

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        gateway = Gateway(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield gateway
        finally:
            server.shutdown()
            thread.join()
