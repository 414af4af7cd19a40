"""Fixtures for the tests of the engines."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def _poisoned_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention give no numbers for tokens that belong to no sequence, as kernels may."""
    from rerank_plugins.backends.engines import packed  # noqa: PLC0415 - it needs torch
    from rerank_plugins.backends.engines.varlen import varlen_attention  # noqa: PLC0415 - as above

    def poisoned(query: Any, key: Any, value: Any, offsets: Any, *rest: Any, **options: Any) -> Any:
        mixed = varlen_attention(query, key, value, offsets, *rest, **options)
        mixed[offsets[-1] :] = float("nan")
        return mixed

    monkeypatch.setattr(packed, "varlen_attention", poisoned)
