"""A reranker's files: find or download them, identify them, and read them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins.backends.local.adapters import holds_adapter, merge
from rerank_plugins.backends.local.bi_encoder import (
    METADATA,
    BiEncoder,
    is_stanford,
    read_bi_encoder,
)
from rerank_plugins.backends.local.digest import digest
from rerank_plugins.backends.local.foreign_code import check_kernels, code_repositories, pinned
from rerank_plugins.backends.local.hub import fetch
from rerank_plugins.backends.local.labels import Label, find_label
from rerank_plugins.backends.local.modelscope import fetch_from_modelscope
from rerank_plugins.backends.local.module_chain import (
    WEIGHTS,
    ModuleChain,
    list_modules,
    module_folders,
    read_chain,
    read_inline_projection,
)
from rerank_plugins.backends.local.native_config import native_config
from rerank_plugins.backends.local.not_a_model import (
    check_is_model,
    check_names,
    describe_architectures,
    describe_file,
    without_tokenizer,
)
from rerank_plugins.backends.local.plausible import check_counts, check_regular, check_token_ids
from rerank_plugins.backends.local.prompts import (
    PromptConfig,
    PromptOptions,
    is_encoder_decoder,
    read_prompt_config,
)
from rerank_plugins.backends.local.quantisation import Quantisation, read_quantisation
from rerank_plugins.backends.local.ready_graph import (
    USUAL_GRAPHS,
    data_files,
    find_graph,
    graph_files,
)
from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.backends.local.shards import INDICES, check_beside, shards
from rerank_plugins.backends.prompt_templates import AnswerTokens, Prompt
from rerank_plugins.errors import ConfigError

__all__ = [
    "HUBS",
    "Checkpoint",
    "HubName",
    "check_hub_id",
    "downloaded",
    "gives_vectors",
    "holds_stanford",
    "read_folder",
    "resolve",
]

HubName: TypeAlias = Literal["huggingface", "modelscope"]
"""Where models come from that are no folder."""
HUBS = get_args(HubName)

_DEFAULT_MAX_LENGTH = 1024
"""Tokens per pair by default; a model that reads 8,192 would take seconds for one pair."""

_NO_LIMIT = 10**6
"""Tokenizers write 10**30 for "no limit"; nothing real is above this."""

_LONGEST_QUERY = 32_768
"""Tokens of a query where the files do not say how many the model can read."""

_LONGEST_PROMPT = 50_000

_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
     "xlm-roberta", "xlm-roberta-xl", "xmod"}
)  # fmt: skip
"""Model types whose positions start behind the padding index, as fairseq counted them."""

_WORDS_AS_TYPES = frozenset(
    {"codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "openai-gpt"}
)
"""Model types that would read a token type as one more word; their tokenizers make none."""

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model",
                    "spm.model", "spiece.model", "tokenizer.model")  # fmt: skip
_HUB_FILES = ("*.jinja", "*.json", "*.model", "*.safetensors", "*.txt", METADATA)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_PROMPT_OPTIONS = PromptOptions()


@dataclass(frozen=True)
class Checkpoint:
    """One reranker on disk.

    It is a sequence classifier, a language model that answers yes or no, a body with a chain of
    modules as its head, or a bi-encoder, which reads each text alone.
    """

    model: str
    """The hub id, or the name of the folder."""
    folder: Path
    """Where the files are."""
    revision: str
    """The hub commit, or a digest of a plain folder (see `resolve`)."""
    config: Mapping[str, Any]
    """`config.json`, in transformers' terms where the model has terms of its own."""
    tokenizer_config: Mapping[str, Any]
    """`tokenizer_config.json`; empty if there is none."""
    max_length: int
    """The most tokens in a pair, special tokens included; longer pairs are cut.

    A bi-encoder reads so many of a document."""
    longest: int | None
    """The most tokens that the model can read; None if its files don't say."""
    prompt: Prompt | None = None
    """The text around a pair; None: the tokenizer joins the two texts."""
    answer_tokens: AnswerTokens | None = None
    """The words whose logits make the score; None: a classifier gives it."""
    query_prefix: str = ""
    """The text before every query where there is no prompt."""
    chain: ModuleChain | None = None
    """What turns the body's states into scores or vectors; None: the model's own head."""
    bi_encoder: BiEncoder | None = None
    """How texts are read alone and compared; None: a query and a document are read together."""
    label: Label | None = None
    """The label that means relevant; None: there is one score."""
    is_native: bool = True
    """Whether `config` is `config.json` as it stands."""
    graph: Path | None = None
    """An ONNX graph to run as it is, for want of weights or because the user names it."""
    quantisation: Quantisation | None = None
    """How the weights are saved in few bits; None: they are not."""
    code: Mapping[str, Path] = field(default_factory=dict)
    """Where the Python files are that it takes from other repositories, by their ids."""
    code_revisions: Mapping[str, str] = field(default_factory=dict)
    """The commit of each of these repositories."""

    @property
    def name(self) -> str:
        """The model and its revision, short: equal names mean equal weights."""
        return f"{self.model}@{self.revision[:12]}"

    @property
    def graph_name(self) -> str | None:
        """The path of `graph` in the folder."""
        return None if self.graph is None else self.graph.relative_to(self.folder).as_posix()

    @property
    def model_type(self) -> str:
        """The architecture's family, as `"bert"` or `"xlm-roberta"`."""
        return str(self.config.get("model_type", ""))

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes the weights were saved from."""
        return tuple(self.config.get("architectures") or ())

    @property
    def prompt_digest(self) -> str:
        """A digest of the prompt and the answer tokens; empty if there are none."""
        if self.prompt is None and self.answer_tokens is None and not self.query_prefix:
            return ""
        settings = json.dumps([repr(self.prompt), repr(self.answer_tokens), self.query_prefix])
        return hashlib.sha256(settings.encode()).hexdigest()[:8]

    def describe(self) -> dict[str, object]:
        """Return what kind of model it is, and its prompt's settings, as JSON-ready facts."""
        facts: dict[str, object] = {"method": self.method}
        if self.bi_encoder is not None:
            facts["similarity"] = self.bi_encoder.similarity
            facts["query_prompt"] = self.bi_encoder.query.prompt or None
            facts["document_prompt"] = self.bi_encoder.document.prompt or None
        if self.prompt is not None:
            facts["template"] = self.prompt.text or "the model's chat template"
            facts["instruction"] = self.prompt.instruction
        if self.answer_tokens is not None:
            facts["true_token"] = self.answer_tokens.true
            facts["false_token"] = self.answer_tokens.false
        if self.label is not None:
            facts["label"] = self.label.name
        if self.quantisation is not None:
            facts["quantisation"] = str(self.quantisation)
        return facts

    @property
    def method(self) -> str:
        """How the model scores, in the field's words."""
        if self.bi_encoder is not None:
            return self.bi_encoder.method
        return "cross-encoder" if self.answer_tokens is None else "language model"

    @property
    def gives_bare_logits(self) -> bool:
        """Whether its authors apply no sigmoid, as after training on a teacher's scores."""
        settings = self.config.get("sentence_transformers")
        named = settings.get("activation_fn") if isinstance(settings, Mapping) else None
        named = named or self.config.get("sbert_ce_default_activation_function")
        return isinstance(named, str) and named.rpartition(".")[2] == "Identity"

    @property
    def takes_instruction(self) -> bool:
        """Whether a query may bring an instruction of its own."""
        return self.prompt is not None and self.prompt.takes_instruction

    @property
    def is_decoder(self) -> bool:
        """Whether the architecture is that of a language model, whatever its head."""
        return self.answer_tokens is not None or "num_key_value_heads" in self.config

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a decoder answers about what an encoder has read."""
        return self.answer_tokens is not None and is_encoder_decoder(self.config)

    @property
    def num_labels(self) -> int:
        """How many logits the head gives per pair, or numbers per vector."""
        if self.chain is not None:
            return self.chain.num_outputs
        return _num_labels(self.config)

    @property
    def uses_types(self) -> bool:
        """Whether the model reads token types, which tell the query from the document."""
        usual = () if self.model_type in _WORDS_AS_TYPES else ("token_type_ids",)
        names = self.tokenizer_config.get("model_input_names") or usual
        return "token_type_ids" in names and int(self.config.get("type_vocab_size", 2)) > 1

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files: safetensors, or pickles where there are none."""
        return _weights(self.folder)

    @property
    def files(self) -> dict[str, Path]:
        """Every file by its name within the folder, also below links to other folders.

        Hidden ones are left out: none is ever read.

        Raises:
            ConfigError: a link leads outside the folder, except to the blobs of the hub's cache.
        """
        found = _files(self.folder)
        for repository, folder in self.code.items():
            found.update({f"{repository}/{name}": path for name, path in _files(folder).items()})
        return found


def holds_stanford(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of Stanford's ColBERT.

    Raises:
        ConfigError: its configuration can't be read.
    """
    return is_stanford(_json(folder / "config.json") or {})


def gives_vectors(folder: Path) -> bool:
    """Whether a folder holds a model that reads each text alone; quick, and never raises."""
    try:
        modules = list_modules("", _json(folder / "modules.json", kind=list))
        kinds = [module.kind for module in modules]
        if not modules:
            return holds_stanford(folder)
        if kinds[1:2] in ([], ["LogitScore"]):
            return False
        last = [_json(folder / module.folder / "config.json") or {} for module in modules[1:]]
    except (ConfigError, OSError):
        return False
    return all(settings.get("module_output_name") != "scores" for settings in last)


def resolve(
    model: str,
    *,
    hub: HubName = "huggingface",
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    max_length: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    code_revisions: Mapping[str, str] | None = None,
    prompt_options: PromptOptions = _NO_PROMPT_OPTIONS,
    label: str | int | None = None,
    onnx_file: str | None = None,
) -> Checkpoint:
    """Find a reranker's files, and download those that are missing.

    A plain folder's revision is a digest of its small files and of samples of every tensor. It
    changes when the model is trained further, converted or given another tokenizer, takes a few
    milliseconds for any size, and does not depend on the path. It is not an integrity check.

    Args:
        model: a folder, or the id of a model on the hub.
        hub: which hub. ModelScope names no commit, so the revision of its models is that digest.
        revision: a branch, tag or commit on the hub.
        cache_folder: where hub models are kept; None: the hub client's own folder.
        local_files_only: take hub models from that folder only.
        max_length: the most tokens in a pair; None: what the model can read, up to 1,024.
        allow_pickle: accept pickled weights; unpickling can run any code.
        trust_remote_code: also download the Python files of the model.
        code_revisions: the commit of every other repository that the model takes code from.
        prompt_options: what the user sets about the prompt and its answer tokens.
        label: the label that means relevant, by name or number; None: what the files say.
        onnx_file: an ONNX graph in the folder to run in place of the weights.

    Raises:
        ConfigError: there is no such model, it is not a reranker this package can run, or
            the options contradict it.
        AuthenticationError: the hub refuses access to the model.
        BackendUnavailable: the hub can't be reached.
        MissingDependencyError: the hub client is not installed.
    """
    folder = Path(model).expanduser()
    read: dict[str, Any] = {
        "max_length": max_length,
        "pickle": allow_pickle,
        "prompt_options": prompt_options,
        "label": label,
        "onnx_file": onnx_file,
    }
    with_code = functools.partial(
        _with_code,
        hub=hub,
        revisions=(code_revisions or {}) if trust_remote_code else None,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
    )
    whole = functools.partial(
        _whole, model, hub=hub, cache_folder=cache_folder, local_files_only=local_files_only
    )
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"`revision` belongs to hub models, and {model!r} is a folder")
        if hub != "huggingface":
            raise ConfigError(f"`hub` belongs to hub models, and {model!r} is a folder")
        return with_code(read_folder(folder.resolve().name, whole(folder), None, **read))
    check_hub_id(model)
    if trust_remote_code and not _COMMIT.fullmatch(revision or ""):
        raise ConfigError(
            "`trust_remote_code` runs what the model's owner wrote, so `revision` must be the "
            f"commit you have read (40 hexadecimal digits), not {revision!r}"
        )
    patterns = [*_HUB_FILES, *(["*.py"] if trust_remote_code else [])]
    fetch_files = functools.partial(
        fetch_from_modelscope if hub == "modelscope" else fetch,
        model,
        revision=revision,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
    )
    folder = fetch_files(patterns=patterns)
    if allow_pickle and not _weights(folder):
        folder = fetch_files(patterns=[*patterns, "pytorch_model*.bin"])
    if onnx_file is not None or not (_weights(folder) or holds_adapter(folder)):
        folder = fetch_files(patterns=graph_files(onnx_file))
    folder = _with_modules(folder, fetch_files)
    merged = whole(folder)
    commit = folder.name if hub == "huggingface" and merged == folder else None
    return with_code(read_folder(model, merged, commit, **read))


def check_hub_id(model: str) -> None:
    """Check that a model that is no folder may be on a hub.

    Raises:
        ConfigError: it is a file, or has no name that a hub gives.
    """
    folder = Path(model).expanduser()
    if folder.is_file():
        if description := describe_file(folder):
            raise ConfigError(f"{model!r} {description}")
        raise ConfigError(f"{model!r} is a file; give the folder that it is in: {folder.parent}")
    if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
        path = str(folder.absolute())
        where = "" if path == model else f" ({path})"
        raise ConfigError(
            f"there is no folder {model!r}{where}, and it is not the id of a hub model (owner/name)"
        )


def downloaded(
    folder: Path, *, allow_pickle: bool, trust_remote_code: bool, onnx_file: str | None
) -> list[str]:
    """Return the patterns of what `resolve` downloads of a model, by a folder that has its names.

    Args:
        folder: every file of the model, with content where it is small.
        allow_pickle: as of `resolve`.
        trust_remote_code: as of `resolve`.
        onnx_file: as of `resolve`.
    """
    patterns = [*_HUB_FILES, *(["*.py"] if trust_remote_code else [])]
    has_weights = any(folder.glob("model*.safetensors"))
    if allow_pickle and not has_weights:
        patterns.append("pytorch_model*.bin")
        has_weights = bool(_weights(folder))
    if onnx_file is not None or not (has_weights or holds_adapter(folder)):
        patterns += graph_files(onnx_file)
    for place in module_folders(_json(folder / "modules.json", kind=list)):
        patterns += [f"{place}/config.json", f"{place}/{WEIGHTS}"]
    return patterns


def _with_modules(folder: Path, fetch_files: Callable[..., Path]) -> Path:
    """Fetch the folders that `modules.json` names, too."""
    folders = module_folders(_json(folder / "modules.json", kind=list))
    if not folders:
        return folder
    names = ("config.json", WEIGHTS)
    return fetch_files(patterns=[f"{place}/{name}" for place in folders for name in names])


def _whole(
    model: str, folder: Path, *, hub: HubName, cache_folder: str | None, local_files_only: bool
) -> Path:
    """Return the folder of a model, or that of an adapter merged into its base."""
    if not holds_adapter(folder):
        return folder
    fetch_files = fetch_from_modelscope if hub == "modelscope" else fetch

    def fetch_base(base: str, revision: str | None) -> Path:
        fetch_of_base = functools.partial(
            fetch_files,
            base,
            revision=revision,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
        )
        return _with_modules(fetch_of_base(patterns=_HUB_FILES), fetch_of_base)

    return merge(model, folder, fetch_base=fetch_base, cache_folder=cache_folder)


def _with_code(
    checkpoint: Checkpoint,
    *,
    hub: HubName,
    revisions: Mapping[str, str] | None,
    cache_folder: str | None,
    local_files_only: bool,
) -> Checkpoint:
    """Fetch the code of other repositories from the model's hub; None: the model may run none."""
    if revisions is None:
        return checkpoint
    repositories = code_repositories(checkpoint.config)
    pinned(checkpoint.model, repositories, revisions)
    fetch_code = fetch_from_modelscope if hub == "modelscope" else fetch
    code = {
        name: fetch_code(
            name,
            revision=revisions[name],
            cache_folder=cache_folder,
            local_files_only=local_files_only,
            patterns=["*.py"],
        )
        for name in repositories
    }
    used = {name: revisions[name] for name in repositories}
    return replace(checkpoint, code=code, code_revisions=used)


def read_folder(
    model: str,
    folder: Path,
    commit: str | None,
    *,
    max_length: int | None,
    pickle: bool,
    prompt_options: PromptOptions,
    label: str | int | None,
    onnx_file: str | None,
) -> Checkpoint:
    """Read a model's folder.

    Args:
        model: what to call the model.
        folder: its files.
        commit: the commit that they are of; None: they are in a plain folder.
        max_length: as of `resolve`.
        pickle: whether pickled weights may be read.
        prompt_options: as of `resolve`.
        label: as of `resolve`.
        onnx_file: as of `resolve`.

    Raises:
        ConfigError: as of `resolve`.
    """
    where = repr(str(folder) if commit is None else model)
    check_regular(folder)
    weights = _weights(folder)
    needs_graph = onnx_file is not None or not _readable(weights, pickle=pickle)
    graph = find_graph(where, folder, onnx_file) if needs_graph else None
    check_is_model(folder, where, has_weights=bool(weights or graph))
    config = _json(folder / "config.json")
    if config is None:
        raise ConfigError(
            f"{where} holds no model: there is no config.json; give a folder that transformers "
            "saved, or the id of a reranker on the hub"
        )
    _check_config(where, config)
    native = native_config(config)
    is_native, config = native == config, native
    _check_files(where, folder, weights, pickle=pickle, has_graph=graph is not None)
    quantisation = None if graph else read_quantisation(where, config, weights)
    check_token_ids(folder)
    tokenizer_config = _json(folder / "tokenizer_config.json") or {}
    for name in tokenizer_config.get("fast_tokenizer_files") or ():
        check_beside(folder / "tokenizer_config.json", name)
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{model!r} holds an adapter of another model (adapter_config.json) beside its own "
            "weights, and libraries differ in which they use; merge it, and remove its files"
        )
    read = functools.partial(_read_json, folder)
    modules = list_modules(model, read("modules.json"))
    chain = read_chain(model, folder, modules, config, read)
    if chain is None and is_stanford(config):
        chain = read_inline_projection(model, folder, config)
    if chain is None:
        _check_kind(model, config)
        _check_names(where, config, weights)
    prompt_config = read_prompt_config(
        model,
        config,
        read,
        has_chat_template=_has_chat_template(folder, tokenizer_config),
        prompt_options=prompt_options,
    )
    bi_encoder = None
    if chain is not None and chain.gives_vectors:
        bi_encoder = read_bi_encoder(model, modules, chain, read)
        _check_unprompted(model, prompt_config, prompt_options)
        prompt_config = replace(prompt_config, query_prefix="")
    if chain is not None and prompt_config.query_prefix and not chain.include_prompt:
        raise ConfigError(
            f"the Pooling of {model!r} leaves out the prompt before the query (include_prompt), "
            "which this package can't run"
        )
    longest = _longest(config, tokenizer_config, prompt_config)
    own_length = None if bi_encoder is None else bi_encoder.document.max_length
    if own_length is not None:  # PyLate leaves a length of queries where others write the model's
        longest = _longest(config, {}, PromptConfig())
    prompts = [prompt_config.query_prefix]
    if bi_encoder is not None:
        _check_query_length(model, bi_encoder, longest)
        prompts += [bi_encoder.query.prompt, bi_encoder.document.prompt]
    _check_prompts(model, prompts)
    labels = 1 if prompt_config.answer_tokens is not None else _num_labels(config)
    if chain is not None:
        labels = 1 if chain.gives_vectors else chain.num_outputs
    files = (*prompt_config.files, *(() if chain is None else chain.files))
    all_weights = (*weights, *(() if chain is None else chain.weights), *_graphs(folder, graph))
    return Checkpoint(
        model=model,
        folder=folder,
        revision=commit or digest(folder, all_weights, files),
        config=config,
        is_native=is_native,
        graph=graph,
        quantisation=quantisation,
        tokenizer_config={**_special_tokens(folder, bi_encoder), **tokenizer_config},
        max_length=_chosen(max_length, longest, own_length),
        longest=longest,
        prompt=prompt_config.prompt,
        answer_tokens=prompt_config.answer_tokens,
        query_prefix=prompt_config.query_prefix,
        chain=chain,
        bi_encoder=bi_encoder,
        label=find_label(model, config, labels, label, named=chain is None),
    )


def _check_config(where: str, config: Mapping[str, Any]) -> None:
    """Check that `config.json` asks for nothing endless, and runs no code."""
    check_counts(where, config)
    check_kernels(where, config)


def _graphs(folder: Path, graph: Path | None) -> Iterator[Path]:
    """Yield the graphs of a folder that may run, each with the weights beside it."""
    usual = (folder / name for name in USUAL_GRAPHS)
    for each in (graph,) if graph is not None else filter(Path.is_file, usual):
        yield from (each, *data_files(each))


def _check_files(
    where: str, folder: Path, weights: Sequence[Path], *, pickle: bool, has_graph: bool
) -> None:
    if not weights and pickle and not has_graph:
        raise ConfigError(
            f"{where} has no weights: neither model.safetensors nor pytorch_model.bin; save or "
            "download the model again"
        )
    unread = weights[0].suffix != ".safetensors" if weights else True
    if unread and not (pickle or has_graph):
        raise ConfigError(
            f"{where} has no safetensors weights; convert it, or pass `allow_pickle=True` if "
            "you trust its files: unpickling can run any code"
        )
    for name in INDICES:
        if (folder / name).exists():
            for shard in shards(folder / name):  # transformers would read files elsewhere, too
                if name == INDICES[0] and not shard.exists():
                    raise ConfigError(
                        f"{where} lacks {shard.name!r}, which {name} names; download it again"
                    )
    if not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ConfigError(f"{where} {without_tokenizer(folder)}")


def _special_tokens(folder: Path, bi_encoder: BiEncoder | None) -> Mapping[str, Any]:
    """Return the special tokens of a bi-encoder that older releases kept in another file."""
    return {} if bi_encoder is None else _json(folder / "special_tokens_map.json") or {}


def _check_unprompted(model: str, found: PromptConfig, options: PromptOptions) -> None:
    """Refuse the options of language models, which would be ignored."""
    if options != _NO_PROMPT_OPTIONS or found.prompt is not None:
        raise ConfigError(
            f"{model!r} reads each text alone and compares vectors; `template`, `instruction`, "
            "`true_token` and `false_token` are for language models that answer"
        )


def _check_query_length(model: str, bi_encoder: BiEncoder, longest: int | None) -> None:
    length = bi_encoder.query.longest(1)
    most = _LONGEST_QUERY if longest is None else longest
    if length > most:
        raise ConfigError(
            f"the files of {model!r} set queries of {length} tokens, and the model can read "
            f"{most} at most"
        )


def _check_prompts(model: str, prompts: Sequence[str]) -> None:
    """Refuse what would be tokenised before each text, and leaves no room for it."""
    for prompt in prompts:
        if len(prompt) > _LONGEST_PROMPT:
            raise ConfigError(
                f"the files of {model!r} put {len(prompt)} characters before a text, and no prompt "
                f"has more than {_LONGEST_PROMPT}; they are damaged"
            )


def _check_kind(model: str, config: Mapping[str, Any]) -> None:
    """Refuse what would load and give meaningless scores."""
    if "start_layer" in config:
        raise ConfigError(
            f"{model!r} has a head for each of several layers (start_layer: "
            f"{str(config['start_layer'])!r:.20}), as FlagEmbedding's layer-wise and lightweight "
            "models, which this package does not run, with or without their code: their files do "
            "not tell which head belongs to which layer; use BAAI/bge-reranker-v2-gemma, or "
            "FlagEmbedding itself"
        )
    architectures = [str(name) for name in config.get("architectures") or ()]
    if any(name.endswith("ForCausalLM") for name in architectures) or is_encoder_decoder(config):
        return
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ConfigError(
            f"{model!r} {describe_architectures(architectures)} (architectures: "
            f"{architectures}), so its scores would be meaningless; choose a reranker "
            "(cross-encoder)"
        )


def _check_names(where: str, config: Mapping[str, Any], weights: Sequence[Path]) -> None:
    is_classifier = "ForSequenceClassification" in str(config.get("architectures"))
    own_names = bool(config.get("auto_map")) or config.get("model_type") == "gte"
    if is_classifier and not own_names and weights and weights[0].suffix == ".safetensors":
        check_names(where, {name for file in weights for name in read_header(file).tensors})


def _num_labels(config: Mapping[str, Any]) -> int:
    labels = config.get("num_labels") or config.get("id2label")
    return labels if isinstance(labels, int) else len(labels or (0, 1))


def _has_chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> bool:
    return bool(tokenizer_config.get("chat_template")) or any(
        (folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")
    )


def _longest(
    config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], prompt_config: PromptConfig
) -> int | None:
    """Return the most tokens that both the model's positions and its files allow."""
    limits = [tokenizer_config.get("model_max_length"), prompt_config.max_length]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    limits.append(positions)
    known = [int(x) for x in limits if isinstance(x, int | float) and 0 < x < _NO_LIMIT]
    return min(known, default=None)


def _chosen(max_length: int | None, longest: int | None, own: int | None) -> int:
    """Return where texts are cut: where the user says, or the model's files, or at a usual one."""
    if max_length is None:
        usual = own or _DEFAULT_MAX_LENGTH
        return min(longest or usual, usual)
    if longest is not None and max_length > longest:
        raise ConfigError(
            f"`max_length` is {max_length}, but the model can read at most {longest} tokens"
        )
    return max_length


def _weights(folder: Path) -> tuple[Path, ...]:
    safe = sorted(folder.glob("model*.safetensors"))
    return tuple(safe or sorted(folder.glob("pytorch_model*.bin")))


def _readable(weights: Sequence[Path], *, pickle: bool) -> list[Path]:
    """Return the weights that may be read."""
    return [file for file in weights if pickle or file.suffix == ".safetensors"]


def _files(folder: Path) -> dict[str, Path]:
    top = folder.resolve()
    # The hub's cache: models--owner--name/snapshots/COMMIT/… → models--owner--name/blobs/…
    blobs = top.parent.parent / "blobs" if top.parent.name == "snapshots" else top
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path = here / name
            target = path.resolve()
            if name.startswith("."):
                continue
            if name in folders and here.resolve().is_relative_to(target):
                raise ConfigError(f"{str(path)!r} is a link to a folder that it is in")
            if not target.is_relative_to(top) and not target.is_relative_to(blobs):
                raise ConfigError(
                    f"{str(path)!r} is a link to a place outside the model's folder; copy what it "
                    "leads to into the folder"
                )
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _read_json(folder: Path, name: str) -> Any:
    return _json(folder / name, kind=list if name == "modules.json" else dict)


def _json(path: Path, *, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {str(path)!r}: {exc}") from exc
    if not isinstance(content, kind):
        expected = "object" if kind is dict else "array"
        raise ConfigError(f"{str(path)!r} holds no JSON {expected}")
    return content
