"""Infinity and Xinference: their commands, and how models and keys get into them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.servers.launch import Server, ask, serving
from tests.support.ports import free_port

__all__ = ["Xinference", "infinity", "xinference"]


def infinity(
    binaries: Path,
    models: Mapping[str, Path],
    *,
    folder: Path,
    settings: Mapping[str, str] | None = None,
) -> AbstractContextManager[Server]:
    """Run Infinity with `models`, by the names it shall know them by."""
    port = free_port()
    command = [binaries / "infinity_emb", "v2", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--engine", "torch", "--no-bettertransformer"]
    for name, model in models.items():
        command += ["--model-id", model, "--served-model-name", name, "--device", "cpu"]
    return serving(
        "infinity",
        command,
        port=port,
        health="/health",
        folder=folder,
        environment={"INFINITY_ANONYMOUS_USAGE_STATS": "0", **(settings or {})},
    )


@dataclass(frozen=True, slots=True)
class Xinference:
    """Xinference, and what its administrator may do."""

    server: Server
    token: str

    def launch(self, name: str, model: Path) -> None:
        """Load the model of a folder, and call it `name`."""
        body = {"model_uid": name, "model_type": "rerank", "replica": 1}
        # a builtin name with a path loads the folder: nothing to register or download
        body |= {"model_name": "bge-reranker-base", "model_path": str(model)}
        ask(f"{self.server.url}/v1/models", body, self.token)

    def key(self, name: str, **permission: str) -> str:
        """Make a key for what has that `model_type` or `model_id`."""
        ((kind, value),) = permission.items()
        permissions = [{"permission_type": kind, "permission_value": value}]
        body = {"name": name, "model_permissions": permissions}
        return str(ask(f"{self.server.url}/v1/admin/keys", body, self.token)["key"])


@contextmanager
def xinference(binaries: Path, *, folder: Path) -> Iterator[Xinference]:
    """Run Xinference without models, with the access control that it starts with."""
    port = free_port()
    settings = {
        "XINFERENCE_ENABLE_VIRTUAL_ENV": "0",  # else each model gets an environment from PyPI
        "XINFERENCE_HOME": str(folder),
        "XINFERENCE_RATE_LIMIT_IP_MAX_FAILURES": "100000",  # else bad keys ban this machine
    }
    with serving(
        "xinference",
        [binaries / "xinference-local", "--host", "127.0.0.1", "--port", str(port)],
        port=port,
        health="/v1/cluster/auth",
        folder=folder,
        environment=settings,
    ) as server:
        account = {"username": "admin", "password": "for-tests-only"}
        match = re.search(r"Setup token: (\S+)", server.log.read_text())
        if match is None:
            raise RuntimeError(f"no token to set it up with\n{server.tail()}")
        ask(f"{server.url}/v1/admin/setup", {"setup_token": match[1], **account})
        yield Xinference(server, ask(f"{server.url}/token", account)["access_token"])
