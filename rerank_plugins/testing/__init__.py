"""What tests need: doubles, the contract every backend keeps, servers that fail on demand.

| to test | take |
|---|---|
| code that uses a backend | `FakeBackend`, `FailingBackend` |
| a backend of your own | `BackendContract` |
| what happens when a server fails | `FakeServer` with `serve_dialect()` or `faults()` |
| what happens when the network fails | `Proxy` in front of a `FakeServer` or of a real server |

All of it is the standard library, on the loopback interface.
"""

from rerank_plugins.testing.contract import BackendContract, bad_requests
from rerank_plugins.testing.doubles import FailingBackend, FakeBackend, word_overlap
from rerank_plugins.testing.fake_server import (
    Behaviour,
    FakeResponse,
    FakeServer,
    Received,
    in_turn,
)
from rerank_plugins.testing.faults import (
    corrupt,
    cut_short,
    drip,
    faults,
    hang_up,
    reset,
    silence,
)
from rerank_plugins.testing.protocols import serve_dialect
from rerank_plugins.testing.proxy import (
    BlackHole,
    Cut,
    Delay,
    Drip,
    HalfClose,
    LineFault,
    Proxy,
    Reset,
)

__all__ = [
    "BackendContract",
    "Behaviour",
    "BlackHole",
    "Cut",
    "Delay",
    "Drip",
    "FailingBackend",
    "FakeBackend",
    "FakeResponse",
    "FakeServer",
    "HalfClose",
    "LineFault",
    "Proxy",
    "Received",
    "Reset",
    "bad_requests",
    "corrupt",
    "cut_short",
    "drip",
    "faults",
    "hang_up",
    "in_turn",
    "reset",
    "serve_dialect",
    "silence",
    "word_overlap",
]
