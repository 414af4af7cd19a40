"""A reranker on this machine: a cross-encoder, a language model, or one that compares vectors."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rerank_plugins._internal.checks import (
    check_boolean,
    check_choice,
    check_integer,
    check_number,
)
from rerank_plugins._internal.file_urls import path_of_file_url
from rerank_plugins._internal.locks import ForkSafeLock, hold_forks
from rerank_plugins._internal.long_documents import MAX_WINDOWS, LongDocuments, LongDocumentsMode
from rerank_plugins._internal.options import changed_options
from rerank_plugins.backend import UNCALIBRATED, Backend, ModelCheck, TextStore
from rerank_plugins.backends.deduplicate import deduplicate
from rerank_plugins.backends.local.checkpoint import (
    HUBS,
    Checkpoint,
    HubName,
    downloaded,
    gives_vectors,
    read_folder,
    resolve,
)
from rerank_plugins.backends.local.engine import (
    Attention,
    DType,
    EngineSettings,
    Request,
    query_text,
)
from rerank_plugins.backends.local.foreign_code import parse_code_revisions
from rerank_plugins.backends.local.foreign_errors import load_errors, score_errors
from rerank_plugins.backends.local.hub import cached_folder
from rerank_plugins.backends.local.idle_timer import IdleTimer
from rerank_plugins.backends.local.loaded_model import LoadedModel, Unloaded
from rerank_plugins.backends.local.prompts import PromptOptions
from rerank_plugins.backends.local.ready_graph import check_name
from rerank_plugins.backends.local.select import (
    EngineName,
    check_installed,
    load_engine,
    reasons_against,
)
from rerank_plugins.backends.model_files import ModelFiles
from rerank_plugins.backends.scale import to_probability
from rerank_plugins.content import Document, Query, Requests, check_request
from rerank_plugins.errors import ConfigError, UnsupportedInputError
from rerank_plugins.scheduler import Scheduler, estimated_tokens
from rerank_plugins.scores import Scale, Scores, check_scores

__all__ = ["LocalBackend"]

_log = logging.getLogger(__name__)

_DEVICE = re.compile(r"(?!gpu)[a-z]+(:\d+)?(,(?!gpu)[a-z]+(:\d+)?)*|cuda:all")
"""`auto`, or what `torch.device` reads; torch itself knows which of these there are."""

_SHARED_BATCH = 16_384
"""The most tokens, estimated, in a batch of concurrent async calls."""

_USUAL_LENGTH = 512
"""Where pairs are assumed to be cut if `max_length` is not set; used to estimate costs only."""


_PROMPT_OPTIONS = ("template", "instruction", "true_token", "false_token")
_WINDOW_OPTIONS = tuple(field.name for field in fields(LongDocuments))
_SWITCHES = ("local_files_only", "trust_remote_code", "allow_pickle", "compile", "cuda_graphs")


class LocalBackend(Backend):
    """Scores in this process with a model of the hub's or a folder's.

    That is a cross-encoder, a language model that answers yes or no, or a model that reads each
    text alone and compares vectors: late interaction (ColBERT) or an embedding model.

    Scores equal those of `sentence_transformers.CrossEncoder` in float32, whatever the batch,
    the order or the neighbours, on one scale for every model: the sigmoid of the raw logit, or
    the logit itself. The activation that a checkpoint names for itself is ignored on purpose,
    so that `min_score` keeps its meaning when the model is changed. Scores of models that compare
    vectors are similarities, as sentence-transformers computes them, and `scale` says so.

    The model loads on first use: of `score()`, `ascore()`, `name` or `describe()`, and only
    `ascore()` leaves the event loop free meanwhile. A document that does not fit into `max_length`
    beside the query is read in windows, and the best one counts: `Scores.windows` says in how many,
    `Scores.passages` which. What is cut is in `Scores.truncated`, and logged once. A query is cut
    only where transformers would cut it.

    A `Query` may hold an instruction if the model's prompt has a place for one; other models
    refuse it with `UnsupportedInputError`.

    Args:
        model: a folder, or the id of a model on the Hugging Face hub.
        engine: `"torch"` (extra `local`), `"onnx"` (extra `onnx`; CPU), or `"auto"`: onnx where
            there is no GPU and it can run the model, else torch.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, any other of torch, or `"auto"`: the accelerator that
            torch has, but for Apple's `"mps"`, else the CPU. Several share the work, each with the
            whole model: `"cuda:0,cuda:1"`, or `"cuda:all"`.
        dtype: of weights and activations. `"auto"` is float32 on a CPU; on CUDA float16, or
            bfloat16 for language models and where a model needs it; `"tf32"` is float32 with
            faster, coarser products on CUDA; `"int8"` and `"int4"` (torch engine, extra
            `bitsandbytes`) are of weights, which are then rounded.
        attention: `"packed"` concatenates the pairs of a batch, `"padded"` pads them to one
            length; `"auto"` packs if a check at load finds the same scores.
        max_length: the most tokens in a pair; None: what the model can read, up to 1,024.
        long_documents: `"best"` reads documents that are too long in windows, of which the best
            makes the score; `"truncate"` reads their start; `"error"` refuses them.
        best_windows: how many windows make the score: 1 is the best one, more the mean of so many.
        max_windows: the most windows that are read of a document; the rest is left out, and told.
        window_tokens: the most tokens of a document in one window; None: as many as fit. Fewer
            tokens make shorter passages, also of documents that would fit.
        batch_tokens: the most tokens in one batch; None: what suits the device. Halved for
            a while when memory runs out.
        scale: `"probability"` (0 to 1) or `"logit"`; a model that compares vectors gives
            `"similarity"`, whatever the default.
        temperature: what a logit is divided by before the sigmoid, above 0; the model's card names
            it where its probabilities need one.
        template: the prompt of a language model, in place of the one in its files: the name of a
            known template, a text with `{query}` and `{document}` (and maybe `{instruction}`), or
            `"pair"`, which joins the two texts as the tokenizer does.
        instruction: what a language model should judge; None: what its files say.
        true_token: the word whose logit is the score; None: what the files say.
        false_token: the word whose logit is subtracted; None: nothing is.
        label: of a classifier with several labels, the name or number of the one that means
            relevant; None: what its files say. The score is the logit of its probability: of two
            labels, the difference of their logits.
        onnx_file: an ONNX graph in the model's folder, such as `"onnx/model_quantized.onnx"`, to
            run as it is in place of the weights; None: one runs only where there are no weights
            but pickled ones that may not be read.
        hub: where a model that is no folder comes from: `"huggingface"` or `"modelscope"`.
        revision: branch, tag or commit of a hub model.
        cache_folder: where hub models are kept; None: the hub client's own folder.
        local_files_only: never contact the hub.
        trust_remote_code: run Python code that comes with the model; a hub model then needs a
            commit as `revision`.
        code_revisions: the commit of every other repository whose code the model runs, as in
            `"OWNER/NAME@COMMIT"`, with commas between several.
        allow_pickle: accept pickled weights; unpickling can run any code.
        threads: CPU threads of the engine; None: what suits the machine.
        gpu_memory_fraction: the share of a GPU's memory that this process may use, 0 to 1; None:
            all of it.
        compile: compile the model with torch: a slow start, faster batches (torch engine).
        cuda_graphs: record small requests as CUDA graphs and replay them (torch engine on CUDA).
        cached_tokens: document tokens kept for the next request, or their vectors; 0 keeps none;
            None: 1,048,576 tokens, or 131,072 vectors.
        unload_after: seconds without a call after which the model's memory is freed; the next call
            loads it again. None: it stays until `close()`.

    Raises:
        ConfigError: an option has an invalid value or type.
    """

    instructions = True

    def __init__(
        self,
        model: str | Path,
        *,
        engine: EngineName = "auto",
        device: str = "auto",
        dtype: DType = "auto",
        attention: Attention = "auto",
        max_length: int | None = None,
        long_documents: LongDocumentsMode = "best",
        best_windows: int = 1,
        max_windows: int = MAX_WINDOWS,
        window_tokens: int | None = None,
        batch_tokens: int | None = None,
        scale: Literal["probability", "logit", "similarity"] = "probability",
        temperature: float = 1.0,
        template: str | None = None,
        instruction: str | None = None,
        true_token: str | None = None,
        false_token: str | None = None,
        label: str | int | None = None,
        onnx_file: str | None = None,
        hub: HubName = "huggingface",
        revision: str | None = None,
        cache_folder: str | Path | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        code_revisions: str | None = None,
        allow_pickle: bool = False,
        threads: int | None = None,
        gpu_memory_fraction: float | None = None,
        compile: bool = False,  # noqa: A002 - torch's word for it
        cuda_graphs: bool = False,
        cached_tokens: int | None = None,
        unload_after: float | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "model": _as_text(model),
            "engine": engine,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "max_length": max_length,
            "long_documents": long_documents,
            "best_windows": best_windows,
            "max_windows": max_windows,
            "window_tokens": window_tokens,
            "batch_tokens": batch_tokens,
            "scale": scale,
            "temperature": temperature,
            "template": template,
            "instruction": instruction,
            "true_token": true_token,
            "false_token": false_token,
            "label": label,
            "onnx_file": onnx_file,
            "hub": hub,
            "revision": revision,
            "cache_folder": _as_text(cache_folder),
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
            "code_revisions": code_revisions,
            "allow_pickle": allow_pickle,
            "threads": threads,
            "gpu_memory_fraction": gpu_memory_fraction,
            "compile": compile,
            "cuda_graphs": cuda_graphs,
            "cached_tokens": cached_tokens,
            "unload_after": unload_after,
        }
        _check(self._options)
        self._long_documents = LongDocuments(
            **{name: self._options[name] for name in _WINDOW_OPTIONS}
        )
        self._scale: Scale | None = None
        self._text_store: TextStore | None = None
        self._loaded: LoadedModel | None = None
        self._lock = ForkSafeLock()
        self._unloaded: Unloaded | None = None
        self._idle_timer = (
            None if unload_after is None else IdleTimer(unload_after, self._unload_if_idle)
        )
        self._scheduler = Scheduler(
            self._score_checked, batch_cost=_SHARED_BATCH, name="rerank-local"
        )

    @property
    def kind(self) -> str:
        return "local"

    @property
    def model(self) -> str:
        return str(self._options["model"])

    @property
    def document_tokens(self) -> int:  # type: ignore[override]  # follows from the options
        length: int = self._options["max_length"] or _USUAL_LENGTH
        return length * self._long_documents.windows

    @property
    def best_part_counts(self) -> bool:  # type: ignore[override]  # follows from the options
        return self._long_documents.best_part_counts

    @property
    def reloads(self) -> bool:  # type: ignore[override]  # follows from the options
        return self._options["unload_after"] is not None

    @property
    def scale(self) -> Scale:  # type: ignore[override]  # a hub's model tells it once it is loaded
        """The scale that was set; `"similarity"` of a model that compares vectors.

        Of a model in a folder, or in the cache of the Hugging Face hub, that is known at once, and
        of another once it is loaded.
        """
        chosen: Scale = self._options["scale"]
        if self._scale is not None or chosen != "probability":
            return self._scale or chosen
        folder = self._known_folder()
        if folder is not None:
            self._scale = "similarity" if gives_vectors(folder) else chosen
        return self._scale or chosen

    def _known_folder(self) -> Path | None:
        """Return where the model's files are, if that is known without asking a hub."""
        folder = Path(self.model).expanduser()
        if folder.is_dir() or self._options["hub"] != "huggingface":
            return folder if folder.is_dir() else None
        return cached_folder(
            self.model,
            revision=self._options["revision"],
            cache_folder=self._options["cache_folder"],
        )

    @property
    def name(self) -> str:
        """Model, revision, engine, dtype, `max_length` and scale; loads the model.

        It stays known while an idle model is unloaded.
        """
        unloaded = self._unloaded
        if unloaded is not None:
            return unloaded.name
        with self._use() as loaded:
            return self._name(loaded.checkpoint, loaded.engine.name)

    def with_text_store(self, store: TextStore) -> Backend:
        """Return a copy that keeps vectors of documents, in 8 bits, in `store`.

        A cross-encoder and a language model compute nothing of a document alone; where that is
        known, this backend itself is returned, since a copy would load the model once more.
        """
        if not self._may_give_vectors():
            return self
        backend = type(self).__new__(type(self))
        backend.__setstate__((self._options, store))
        return backend

    def _may_give_vectors(self) -> bool:
        loaded, folder = self._loaded, Path(self.model).expanduser()
        if loaded is not None:
            return loaded.checkpoint.bi_encoder is not None
        return not folder.is_dir() or gives_vectors(folder)

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score all requests in shared batches; equal documents of a request are scored once."""
        checked = [_check_request(query, documents) for query, documents in requests]
        if not any(documents for _, documents in checked):
            return [Scores((), scale=self.scale) for _ in requests]
        return self._score_checked(checked)

    def _score_checked(self, checked: Requests) -> list[Scores]:
        """Score requests that `check_request` has let pass, whose documents are strings."""
        requests: Sequence[Request] = checked  # type: ignore[assignment]  # see above
        distinct = [deduplicate(documents) for _, documents in requests]
        with self._use() as loaded, score_errors(self.model):
            self._check_instructions(requests, loaded.checkpoint)
            logits = loaded.engine.logits(
                [
                    (query, unique)
                    for (query, _), (unique, _) in zip(requests, distinct, strict=True)
                ]
            )
            loaded.emit_events(logits)
            name = self._name(loaded.checkpoint, loaded.engine.name)
        return [
            self._scores(name, result).take(positions)
            for result, (_, positions) in zip(logits, distinct, strict=True)
        ]

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        """Score in batches shared with all `ascore` calls in flight, in any event loop.

        Small requests overtake large ones, and a cancelled call is not scored further.
        """
        query, texts = _check_request(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        text, limit = query_text(query), self.document_tokens
        costs = [estimated_tokens(text, document, limit=limit) for document in texts]
        return await asyncio.wrap_future(self._scheduler.submit(query, texts, costs, wait=True))

    def describe(self) -> dict[str, object]:
        """Return the model, engine, device and dtype that score; loads the model."""
        with self._use() as loaded:
            checkpoint = loaded.checkpoint
            return {
                **super().describe(),
                "name": self._name(checkpoint, loaded.engine.name),
                "model": self._options["model"],
                "revision": checkpoint.revision,
                "max_length": checkpoint.max_length,
                "longest": checkpoint.longest,
                **checkpoint.describe(),
                **self._calibration(checkpoint),
                **loaded.engine.describe(),
                "engine_chosen": loaded.reason,
            }

    def _calibration(self, checkpoint: Checkpoint) -> dict[str, object]:
        if self.scale != "probability":
            return {}
        temperature = self._options["temperature"]
        if temperature != 1:
            return {"calibration": f"temperature {temperature:g}"}
        return {"calibration": UNCALIBRATED if checkpoint.gives_bare_logits else "none"}

    def model_files(self) -> ModelFiles:
        """Return the files of the model without loading or downloading it.

        Raises:
            ConfigError: they are not on this machine, or broken.
        """
        checkpoint = self._resolve(local_files_only=True)
        return ModelFiles(checkpoint.model, checkpoint.revision, checkpoint.files)

    def check_requirements(self) -> None:
        check_installed(self._options["engine"])

    def check_models(self) -> Iterator[ModelCheck]:
        """Check the model by its small files, which a hub is asked for."""
        from rerank_plugins.backends.local.preview import (  # noqa: PLC0415 - for `doctor` only
            check_folder,
            check_on_hub,
        )

        options = self._options
        folder = self._known_folder()
        is_here = folder is not None and (
            folder == Path(self.model).expanduser() or any(folder.glob("model*.safetensors"))
        )
        if is_here or options["local_files_only"]:
            check = check_folder(
                folder or Path(self.model),
                lambda: self._resolve(local_files_only=True),
                self._reasons_against,
            )
        else:
            check = check_on_hub(
                self.model,
                hub=options["hub"],
                revision=options["revision"],
                patterns=functools.partial(
                    downloaded,
                    allow_pickle=options["allow_pickle"],
                    trust_remote_code=options["trust_remote_code"],
                    onnx_file=options["onnx_file"],
                ),
                trusts_code=options["trust_remote_code"],
                read=self._read_outline,
                engines=self._reasons_against,
            )
        if options["scale"] == "logit" and check.facts.get("scale") == "probability":
            check = replace(check, facts={**check.facts, "scale": "logit"})
        yield check

    def _read_outline(self, folder: Path, commit: str | None) -> Checkpoint:
        options = self._options
        with load_errors(self.model):
            return read_folder(
                self.model,
                folder,
                commit or "unknown",
                max_length=options["max_length"],
                pickle=options["allow_pickle"],
                prompt_options=self._prompt_options(),
                label=options["label"],
                onnx_file=options["onnx_file"],
            )

    def _prompt_options(self) -> PromptOptions:
        return PromptOptions(**{name: self._options[name] for name in _PROMPT_OPTIONS})

    def _reasons_against(self, checkpoint: Checkpoint) -> dict[str, str | None]:
        return reasons_against(self._options["engine"], checkpoint, self._engine_settings())

    def _engine_settings(self) -> EngineSettings:
        options = self._options
        return EngineSettings(
            **{
                field.name: options[field.name]
                for field in fields(EngineSettings)
                if field.name in options
            }
        )

    def to_spec(self) -> dict[str, object]:
        return {"kind": "local", **changed_options(LocalBackend, self._options)}

    def close(self) -> None:
        """Free the model, once no thread is scoring with it; the next score loads it again."""
        self._scheduler.close()
        with self._lock:
            loaded, self._loaded = self._loaded, None
            self._unloaded = None
            if self._idle_timer is not None:
                self._idle_timer.stop()
            idle = loaded is not None and not loaded.users
        if loaded is not None and idle:
            loaded.engine.close()

    def __getstate__(self) -> tuple[dict[str, Any], TextStore | None]:
        return self._options, self._text_store

    def __setstate__(self, state: tuple[dict[str, Any], TextStore | None]) -> None:
        options, store = state
        type(self).__init__(self, **options)
        self._text_store = store

    @contextmanager
    def _use(self) -> Iterator[LoadedModel]:
        """Lend the loaded model; `close` frees it, or the last call that still uses it."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            loaded = self._loaded
            self._unloaded = None
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
                is_last = loaded is not self._loaded and not loaded.users
                if self._idle_timer is not None and loaded is self._loaded and not loaded.users:
                    self._idle_timer.restart()
            if is_last:
                loaded.engine.close()

    def _unload_if_idle(self) -> None:
        """Free the model if nobody has used it for `unload_after`; a call meanwhile waits."""
        with self._lock:
            loaded, timer = self._loaded, self._idle_timer
            if loaded is None or timer is None:
                return
            if timer.remaining() > 0 or loaded.users:  # the last of these starts the timer anew
                return
            name = self._name(loaded.checkpoint, loaded.engine.name)
            self._unloaded = Unloaded(name, loaded.checkpoint.revision)
            self._loaded = None
            loaded.engine.close()
        _log.info("unloaded %s, which was idle for %g s", self.label, self._options["unload_after"])

    def _resolve(self, *, local_files_only: bool) -> Checkpoint:
        options = self._options
        with load_errors(self.model):
            return resolve(
                options["model"],
                hub=options["hub"],
                revision=options["revision"]
                if self._unloaded is None
                else self._unloaded.pinned(options["revision"]),
                cache_folder=options["cache_folder"],
                local_files_only=local_files_only,
                max_length=options["max_length"],
                allow_pickle=options["allow_pickle"],
                trust_remote_code=options["trust_remote_code"],
                code_revisions=parse_code_revisions(options["code_revisions"]),
                prompt_options=self._prompt_options(),
                label=options["label"],
                onnx_file=options["onnx_file"],
            )

    def _load(self) -> LoadedModel:
        options = self._options
        check_installed(options["engine"])  # before gigabytes are fetched
        settings = self._engine_settings()
        checkpoint = self._resolve(local_files_only=options["local_files_only"])
        # transformers imports a model's module when it loads one
        with load_errors(self.model), hold_forks():
            self._check_scale(checkpoint)
            if self._unloaded is not None:
                self._unloaded.check(checkpoint)
            settings = self._with_vector_store(settings, checkpoint)
            engine, reason = load_engine(options["engine"], checkpoint, settings)
        return LoadedModel(checkpoint, engine, reason)

    def _with_vector_store(
        self, settings: EngineSettings, checkpoint: Checkpoint
    ) -> EngineSettings:
        """Let a bi-encoder keep its vectors in the text store, if there is one."""
        store = self._text_store
        if store is None or checkpoint.bi_encoder is None:
            return settings
        from rerank_plugins.backends.vector_store import VectorStore  # noqa: PLC0415 - it loads numpy

        name_with = functools.partial(self._name, checkpoint)
        return replace(settings, vector_store=VectorStore(store, name_with))

    def _check_scale(self, checkpoint: Checkpoint) -> None:
        """Take the scale of a model that compares vectors, which has no logits.

        Raises:
            ConfigError: an option says otherwise.
        """
        chosen, temperature = self._options["scale"], self._options["temperature"]
        if checkpoint.bi_encoder is None:
            if chosen == "similarity":
                raise ConfigError(
                    f"{checkpoint.model!r} gives logits; `scale` must be 'probability' or 'logit'"
                )
            return
        if chosen == "logit" or temperature != 1:
            option = "scale='logit'" if chosen == "logit" else f"temperature={temperature:g}"
            raise ConfigError(
                f"{checkpoint.model!r} compares vectors ({checkpoint.method}), so it has no logits "
                f"for {option}; leave it out: its scores are of the scale 'similarity'"
            )
        self._scale = "similarity"

    def _name(self, checkpoint: Checkpoint, engine: str) -> str:
        prompt = f"&prompt={checkpoint.prompt_digest}" if checkpoint.prompt_digest else ""
        scaled = self._options["temperature"]
        temperature = "" if scaled == 1 else f"&temperature={float(scaled)!r}"
        label = "" if checkpoint.label is None else f"&label={checkpoint.label.index}"
        code = "".join(
            f"&code={name}@{commit[:12]}" for name, commit in checkpoint.code_revisions.items()
        )
        if self._options["trust_remote_code"] and checkpoint.config.get("auto_map") and not code:
            code = "&code=own"
        graph = "" if checkpoint.graph_name is None else f"&graph={checkpoint.graph_name}"
        return (
            f"local:{checkpoint.name}?engine={engine}{graph}{prompt}{label}{code}"
            f"&max_length={checkpoint.max_length}&scale={self.scale}{temperature}"
            f"{self._long_documents.name}"
        )

    def _check_instructions(self, requests: Iterable[Request], checkpoint: Checkpoint) -> None:
        if checkpoint.takes_instruction:
            return
        if any(isinstance(query, Query) for query, _ in requests):
            raise UnsupportedInputError(
                f"the query holds an instruction, and {checkpoint.model!r} has no prompt that "
                "takes one; leave it out, or use a language model whose template does"
            )

    def _scores(self, name: str, result: Scores) -> Scores:
        values = check_scores(result.values, len(result))
        return Scores(
            values
            if self.scale != "probability"
            else to_probability(values, self._options["temperature"]),
            backend=name,
            model=self.model,
            scale=self.scale,
            truncated=result.truncated,
            read=result.read,
            windows=result.windows,
            passages=result.passages,
            highlights=result.highlights,
            usage=result.usage,
        )


def _check_request(query: str | Query, documents: Sequence[Document]) -> Request:
    checked: Any = check_request(query, documents, instructions=True)  # without images: strings
    request: Request = checked
    return request


def _as_text(path: object) -> object:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _check(options: dict[str, Any]) -> None:
    model = options["model"]
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(f"`model` must be a folder or the id of a hub model, not {model!r}")
    if path := path_of_file_url(model):
        raise ConfigError(f"`model` must be a folder's path, not its URL {model!r}; write {path!r}")
    for name, choices in (
        ("engine", get_args(EngineName)),
        ("dtype", get_args(DType)),
        ("attention", get_args(Attention)),
        ("scale", ("probability", "logit", "similarity")),
        ("hub", HUBS),
    ):
        check_choice(name, options[name], choices)
    device = options["device"]
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ConfigError(
            "`device` must be 'auto', 'cpu', 'cuda' or another of torch, one of several, as in "
            f"'cuda:1', or several, as in 'cuda:0,cuda:1' or 'cuda:all', not {device!r}"
        )
    for name in ("max_length", "batch_tokens", "threads"):
        check_integer(name, options[name], least=1, optional=True)
    check_integer("cached_tokens", options["cached_tokens"], least=0, optional=True)
    check_number(
        "gpu_memory_fraction", options["gpu_memory_fraction"], above=0, most=1, optional=True
    )
    for name in _SWITCHES:
        check_boolean(name, options[name])
    check_number("temperature", options["temperature"], above=0)
    check_number("unload_after", options["unload_after"], above=0, optional=True)
    if options["scale"] != "probability" and options["temperature"] != 1:
        raise ConfigError(
            f"`temperature` turns logits into probabilities, and `scale` is {options['scale']!r}; "
            "drop one of them"
        )
    check_name(options["onnx_file"])
    label = options["label"]
    if isinstance(label, bool) or not isinstance(label, str | int | None) or label == "":
        raise ConfigError(f"`label` must be None, or a label's name or number, not {label!r}")
    for name in (*_PROMPT_OPTIONS, "revision", "cache_folder", "code_revisions"):
        value = options[name]
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"`{name}` must be None or a text that is not empty, not {value!r}")
    if parse_code_revisions(options["code_revisions"]) and not options["trust_remote_code"]:
        raise ConfigError("`code_revisions` needs `trust_remote_code=True`")
