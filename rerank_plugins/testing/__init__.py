"""What tests need: doubles, the contract every backend keeps, servers that fail on demand.

| to test | take |
|---|---|
| code that uses a backend | `FakeBackend`, `FailingBackend` |
| a backend of your own | `BackendContract` |
| what happens when a server fails | `Endpoint` with `speak()`, `faults()` or an answer of yours |
| what happens when the network fails | `Proxy` in front of an `Endpoint` or of a real server |

All of it is the standard library, on the loopback interface.
"""

from rerank_plugins.testing.contract import BackendContract, bad_requests
from rerank_plugins.testing.doubles import FailingBackend, FakeBackend, word_overlap
from rerank_plugins.testing.fake_server import Answer, Behaviour, Endpoint, Received, in_turn
from rerank_plugins.testing.faults import (
    cut_short,
    drip,
    faults,
    hang_up,
    reset,
    silence,
    spoil,
)
from rerank_plugins.testing.protocols import speak
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
    "Answer",
    "BackendContract",
    "Behaviour",
    "BlackHole",
    "Cut",
    "Delay",
    "Drip",
    "Endpoint",
    "FailingBackend",
    "FakeBackend",
    "HalfClose",
    "LineFault",
    "Proxy",
    "Received",
    "Reset",
    "bad_requests",
    "cut_short",
    "drip",
    "faults",
    "hang_up",
    "in_turn",
    "reset",
    "silence",
    "speak",
    "spoil",
    "word_overlap",
]
