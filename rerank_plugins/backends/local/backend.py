"""A cross-encoder on this machine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal, get_args

from rerank_plugins._internal.locks import ForkSafeLock, hold_forks
from rerank_plugins._internal.options import changed_options, unknown
from rerank_plugins.backend import Backend
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import Attention, DType, EngineSettings
from rerank_plugins.backends.local.loaded_model import LoadedModel
from rerank_plugins.backends.local.prompts import PromptOptions
from rerank_plugins.backends.local.select import EngineName, check_installed, load_engine
from rerank_plugins.backends.scale import to_probability
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.errors import ConfigError
from rerank_plugins.scheduler import Scheduler, estimated_tokens
from rerank_plugins.scores import Scores, check_scores

__all__ = ["LocalBackend"]

_DEVICE = re.compile(r"(?!gpu)[a-z]+(:\d+)?(,(?!gpu)[a-z]+(:\d+)?)*|cuda:all")
"""`auto`, or what `torch.device` reads; torch itself knows which of these there are."""

_SHARED_BATCH = 16_384
"""Most tokens, estimated, that concurrent async calls give to the engine at once."""

_USUAL_LENGTH = 512
"""Tokens at which a pair is taken to be cut when nobody said so; only costs are guessed by it."""


_PROMPT_OPTIONS = ("template", "instruction", "true_token", "false_token")


class LocalBackend(Backend):
    """Scores with a cross-encoder or a language model that answers yes or no, in this process.

    Scores equal those of `sentence_transformers.CrossEncoder` in float32, whatever the batch,
    the order or the neighbours, on one scale for every model: the sigmoid of the raw logit, or
    the logit itself. The activation that a checkpoint names for itself is ignored on purpose,
    so that `min_score` keeps its meaning when the model is changed.

    The model loads on first use. A query is cut only where transformers would cut it, and then
    a warning is logged; documents are cut to `max_length`, which `describe()` counts.

    Args:
        model: a folder, or the id of a model on the Hugging Face hub.
        engine: `"torch"` (extra `local`), `"onnx"` (extra `onnx`; CPU), or `"auto"`: onnx where
            there is no GPU and it can run the model, else torch.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, or `"auto"`: the best there is. Several
            share the work, each with the whole model: `"cuda:0,cuda:1"`, or `"cuda:all"`.
        dtype: how numbers are held. `"auto"` is float32 on a CPU; on CUDA float16, or bfloat16
            for language models and where a model needs it; `"tf32"` is float32 with faster,
            coarser products on CUDA; `"int8"` is for the onnx engine.
        attention: `"packed"` puts the pairs of a batch one after another, `"padded"` fills them
            up to one length; `"auto"` packs where that was checked to give the same scores.
        max_length: most tokens in a pair; None: what the model can read, up to 1,024.
        batch_tokens: most tokens in one batch; None: what suits the device. Halved for good when
            memory runs out.
        scale: `"probability"` (0 to 1) or `"logit"`.
        template: how a language model is asked, where its files don't say: the name of a known
            template, a text with `{query}` and `{document}` (and maybe `{instruction}`), or
            `"pair"`: as its tokenizer joins two texts. A chat template is not used then.
        instruction: what a language model is told to judge; None: what its files say.
        true_token: the word whose logit is the score, where the files don't say.
        false_token: the word whose logit is subtracted; None: none.
        revision: branch, tag or commit of a hub model.
        cache_folder: where hub models are kept; None: the hub client's own folder.
        local_files_only: don't ask the hub.
        trust_remote_code: run Python code that comes with the model; for a hub model this needs
            `revision` to be a commit.
        allow_pickle: accept weights that are no safetensors; unpickling can run any code.
        threads: processor threads of the engine; None: what suits the machine.
        gpu_memory_fraction: how much of a GPU's memory this process may use, 0 to 1; None: all.
        compile: let torch compile the model: a slow start, faster batches (torch engine).
        cuda_graphs: record small requests as CUDA graphs and replay them (torch engine on CUDA).
        cached_tokens: document tokens kept for the next request; 0 keeps none.

    Raises:
        ConfigError: an option has an impossible value.
    """

    def __init__(
        self,
        model: str,
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: DType = "auto",
        attention: Attention = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        scale: Literal["probability", "logit"] = "probability",
        template: str | None = None,
        instruction: str | None = None,
        true_token: str | None = None,
        false_token: str | None = None,
        revision: str | None = None,
        cache_folder: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        threads: int | None = None,
        gpu_memory_fraction: float | None = None,
        compile: bool = False,  # noqa: A002 - torch's word for it
        cuda_graphs: bool = False,
        cached_tokens: int = 1 << 20,
    ) -> None:
        self._options: dict[str, Any] = {
            "model": model,
            "engine": engine,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "max_length": max_length,
            "batch_tokens": batch_tokens,
            "scale": scale,
            "template": template,
            "instruction": instruction,
            "true_token": true_token,
            "false_token": false_token,
            "revision": revision,
            "cache_folder": cache_folder,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
            "allow_pickle": allow_pickle,
            "threads": threads,
            "gpu_memory_fraction": gpu_memory_fraction,
            "compile": compile,
            "cuda_graphs": cuda_graphs,
            "cached_tokens": cached_tokens,
        }
        _check(self._options)
        self.scale = scale
        self._loaded: LoadedModel | None = None
        self._lock = ForkSafeLock()
        self._scheduler = Scheduler(self.score_many, batch_cost=_SHARED_BATCH, name="rerank-local")

    @property
    def kind(self) -> str:
        return "local"

    @property
    def model(self) -> str:
        return str(self._options["model"])

    @property
    def name(self) -> str:
        """Model, revision, engine, dtype, `max_length` and scale; loads the model."""
        with self._use() as loaded:
            return self._name(loaded)

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score all requests in shared batches; equal documents of a request are scored once."""
        checked = [check_texts(query, documents) for query, documents in requests]
        if not any(documents for _, documents in checked):
            return [Scores((), scale=self.scale) for _ in requests]
        distinct = [(query, list(dict.fromkeys(documents))) for query, documents in checked]
        with self._use() as loaded:
            logits = loaded.engine.logits(distinct)
            loaded.emit_events()
            name = self._name(loaded)
        return [
            self._scores(name, documents, dict(zip(known, values, strict=True)))
            for (_, documents), (_, known), values in zip(checked, distinct, logits, strict=True)
        ]

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        """Score in batches shared with all `ascore` calls in flight, in any event loop.

        Small requests overtake large ones, and a cancelled call is not scored further.
        """
        text, texts = check_texts(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        most = self._options["max_length"] or _USUAL_LENGTH
        costs = [estimated_tokens(text, document, limit=most) for document in texts]
        return await asyncio.wrap_future(self._scheduler.submit(text, texts, costs, wait=True))

    def describe(self) -> dict[str, object]:
        """Say which model, engine, device and dtype score, and what was cut; loads the model."""
        with self._use() as loaded:
            checkpoint = loaded.checkpoint
            return {
                **super().describe(),
                "name": self._name(loaded),
                "model": self._options["model"],
                "revision": checkpoint.revision,
                "max_length": checkpoint.max_length,
                "longest": checkpoint.longest,
                **checkpoint.describe(),
                **loaded.engine.describe(),
                "engine_chosen": loaded.reason,
            }

    def to_spec(self) -> dict[str, object]:
        return {"kind": "local", **changed_options(LocalBackend, self._options)}

    def close(self) -> None:
        """Free the model, once no thread is scoring with it; the next score loads it again."""
        self._scheduler.close()
        with self._lock:
            loaded, self._loaded = self._loaded, None
            idle = loaded is not None and not loaded.users
        if loaded is not None and idle:
            loaded.engine.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._options

    def __setstate__(self, options: dict[str, Any]) -> None:
        type(self).__init__(self, **options)

    @contextmanager
    def _use(self) -> Iterator[LoadedModel]:
        """Lend the loaded model; it is freed by `close`, or by the last who still uses it."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            loaded = self._loaded
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
                left = loaded is not self._loaded and not loaded.users
            if left:
                loaded.engine.close()

    def _load(self) -> LoadedModel:
        options = self._options
        check_installed(options["engine"])  # before gigabytes are fetched
        checkpoint = resolve(
            options["model"],
            revision=options["revision"],
            cache_folder=options["cache_folder"],
            local_files_only=options["local_files_only"],
            max_length=options["max_length"],
            allow_pickle=options["allow_pickle"],
            trust_remote_code=options["trust_remote_code"],
            prompt_options=PromptOptions(**{name: options[name] for name in _PROMPT_OPTIONS}),
        )
        chosen = {field.name: options[field.name] for field in fields(EngineSettings)}
        settings = EngineSettings(**chosen)
        with hold_forks():  # transformers imports a model's module when it loads one
            engine, reason = load_engine(options["engine"], checkpoint, settings)
        return LoadedModel(checkpoint, engine, reason)

    def _name(self, loaded: LoadedModel) -> str:
        checkpoint, engine = loaded.checkpoint, loaded.engine
        asks = f"&prompt={checkpoint.prompt_digest}" if checkpoint.prompt_digest else ""
        return (
            f"local:{checkpoint.name}?engine={engine.name}{asks}"
            f"&max_length={checkpoint.max_length}&scale={self.scale}"
        )

    def _scores(self, name: str, documents: Sequence[str], logits: dict[str, float]) -> Scores:
        values = check_scores([logits[document] for document in documents], len(documents))
        if self.scale == "probability":
            values = to_probability(values)
        return Scores(values, backend=name, model=self.model, scale=self.scale)


def _check(options: dict[str, Any]) -> None:
    model = options["model"]
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"`model` must be a folder or the id of a hub model, not {model!r}")
    for name, valid in (
        ("engine", get_args(EngineName)),
        ("dtype", get_args(DType)),
        ("attention", get_args(Attention)),
        ("scale", ("probability", "logit")),
    ):
        if options[name] not in valid:
            raise ConfigError(unknown(f"`{name}`", str(options[name]), valid))
    device = options["device"]
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ConfigError(
            "`device` must be 'auto', 'cpu', 'mps' or 'cuda', one of several, as in 'cuda:1', or "
            f"several, as in 'cuda:0,cuda:1' or 'cuda:all', not {device!r}"
        )
    for name, least in (("max_length", 1), ("batch_tokens", 1), ("threads", 1)):
        value = options[name]
        if value is not None and value < least:
            raise ConfigError(f"`{name}` must be None or at least {least}, not {value!r}")
    fraction = options["gpu_memory_fraction"]
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError(f"`gpu_memory_fraction` must be above 0 and at most 1, not {fraction!r}")
    for name in _PROMPT_OPTIONS:
        if options[name] is not None and not options[name]:
            raise ConfigError(f"`{name}` must be None or a text that is not empty")
    if options["cached_tokens"] < 0:
        raise ConfigError(f"`cached_tokens` must be at least 0, not {options['cached_tokens']!r}")
