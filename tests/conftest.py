"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the folder of a tiny reranker of some kind (see `checkpoints.KINDS`), built once."""
    pytest.importorskip("transformers", reason="needs the extra `local`")
    from checkpoints import build  # noqa: PLC0415 - it needs torch, which may be missing

    built: dict[str, Path] = {}

    def folder(kind: str) -> str:
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp(kind))
        return str(built[kind])

    return folder
