"""A scorer in another process, seen as a backend."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.errors import BackendUnavailable
from rerank_plugins.scores import Scores, check_scores

__all__ = ["Peer"]

_WORKER = Path(__file__).with_name("worker.py")


class Peer(Backend):
    """Scores in a fresh process, which starts with the first use and ends with `close`.

    Args:
        label: what to call it.
        python: the interpreter that has its library.
        loader: the function of `worker.py` that loads it.
        model: the folder it loads.
        options: of the loader.
        log: where what it prints goes.
    """

    scale = "logit"

    def __init__(
        self,
        label: str,
        *,
        python: Path,
        loader: str,
        model: Path,
        options: Mapping[str, object],
        log: IO[str],
    ) -> None:
        self._label = label
        self._command = [str(python), str(_WORKER)]
        self._first = {"loader": loader, "model": str(model), "options": dict(options)}
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.processor_seconds = 0.0
        """Used by the process so far, all its threads together."""
        self.memory: dict[str, int] = {}
        """MiB `now`, at its `peak`, and `anonymous`: without mapped files."""

    @property
    def name(self) -> str:
        return self._label

    def start(self) -> None:
        """Load the model, unless it is loaded.

        Raises:
            BackendUnavailable: it could not be loaded, with the reason.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
            )
            self._ask(self._first)

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        self.start()
        asked = [check_texts(query, documents) for query, documents in requests]
        all_logits = self._ask({"requests": asked})["logits"]
        return [
            Scores(check_scores(logits, len(documents)), backend=self.name, scale=self.scale)
            for logits, (_, documents) in zip(all_logits, asked, strict=True)
        ]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, message: Mapping[str, object]) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise BackendUnavailable(f"{self._label} is not running")
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError as exc:
            raise BackendUnavailable(f"{self._label} ended: {exc}") from exc
        if not line:
            raise BackendUnavailable(f"{self._label} ended with status {process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise BackendUnavailable(f"{self._label}: {reply['error']}")
        self.processor_seconds = reply["cpu"]
        self.memory = reply["memory"]
        return reply
