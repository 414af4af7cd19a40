"""A reranker's files on this machine: found or fetched, identified, and read."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.backends.engines.hub import fetch
from rerank_plugins.errors import ConfigError

__all__ = ["Checkpoint", "resolve"]

_DEFAULT_MAX_LENGTH = 1024
"""Tokens per pair unless asked otherwise; models that can read 8,192 would take seconds a pair."""

_NO_LIMIT = 10**6
"""Tokenizers write 10**30 for "no limit"; nothing real is above this."""

_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm",
     "xlm-roberta", "xlm-roberta-xl", "xmod"}
)  # fmt: skip
"""Model types whose positions start behind the padding index, as fairseq counted them."""

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model",
                    "spm.model", "spiece.model", "tokenizer.model")  # fmt: skip
_HUB_FILES = ("*.jinja", "*.json", "*.model", "*.safetensors", "*.txt")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAMPLE = 4096


@dataclass(frozen=True)
class Checkpoint:
    """One sequence-classification reranker on disk."""

    model: str
    """The hub id, or the name of the folder."""
    folder: Path
    """Where the files are."""
    revision: str
    """The hub commit, or a digest of a plain folder (see `resolve`)."""
    config: Mapping[str, Any]
    """`config.json`."""
    tokenizer_config: Mapping[str, Any]
    """`tokenizer_config.json`; empty if there is none."""
    max_length: int
    """Most tokens in a pair, special tokens included; longer ones are cut."""
    longest: int | None
    """The most the model could read; None if its files do not say."""

    @property
    def name(self) -> str:
        """The model and its revision, short: equal names mean equal weights."""
        return f"{self.model}@{self.revision[:12]}"

    @property
    def model_type(self) -> str:
        """The architecture's family, as `"bert"` or `"xlm-roberta"`."""
        return str(self.config.get("model_type", ""))

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes the weights were saved from."""
        return tuple(self.config.get("architectures") or ())

    @property
    def num_labels(self) -> int:
        """How many logits the head gives per pair."""
        labels = self.config.get("num_labels") or self.config.get("id2label")
        return labels if isinstance(labels, int) else len(labels or (0, 1))

    @property
    def uses_types(self) -> bool:
        """Whether the model is told which tokens are the query's and which the document's."""
        names = self.tokenizer_config.get("model_input_names") or ("token_type_ids",)
        return "token_type_ids" in names and int(self.config.get("type_vocab_size", 2)) > 1

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files: safetensors, or pickles where there are none."""
        return _weights(self.folder)


def resolve(
    model: str,
    *,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    max_length: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Find a reranker's files, fetching them from the hub if need be.

    A plain folder's revision is a digest of its small files and of samples of every tensor: it
    changes when a model is trained on, converted or given another tokenizer, costs some
    milliseconds whatever the size, and does not depend on the path. It is no integrity check.

    Args:
        model: a folder, or the id of a model on the Hugging Face hub.
        revision: a branch, tag or commit on the hub.
        cache_folder: where hub models are kept; None: the hub client's own folder.
        local_files_only: take hub models from that folder only.
        max_length: most tokens in a pair; None: what the model can read, up to 1,024.
        allow_pickle: accept weights that can only be unpickled, which can run any code.
        trust_remote_code: also fetch the Python files of the model.

    Raises:
        ConfigError: there is no such model, it is not a reranker this package can run, or
            the options contradict it.
        AuthenticationError: the hub refuses access to the model.
        BackendUnavailable: the hub can't be reached.
        MissingDependencyError: the hub client is not installed.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"`revision` belongs to hub models, and {model!r} is a folder")
        return _read(folder.resolve().name, folder, None, max_length, allow_pickle)
    if not _HUB_ID.fullmatch(model) or model.startswith((".", "~")):
        raise ConfigError(
            f"there is no folder {model!r}, and it is no id of a model on the hub (owner/name)"
        )
    if trust_remote_code and not _COMMIT.fullmatch(revision or ""):
        raise ConfigError(
            "`trust_remote_code` runs what the model's owner wrote, so `revision` must be the "
            f"commit you have read (40 hexadecimal digits), not {revision!r}"
        )
    patterns = [*_HUB_FILES, *(["*.py"] if trust_remote_code else [])]
    wanted = functools.partial(
        fetch,
        model,
        revision=revision,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
    )
    folder = wanted(patterns=patterns)
    if allow_pickle and not _weights(folder):
        folder = wanted(patterns=[*patterns, "pytorch_model*.bin"])
    return _read(model, folder, folder.name, max_length, allow_pickle)


def _read(
    model: str,
    folder: Path,
    commit: str | None,
    max_length: int | None,
    allow_pickle: bool,  # noqa: FBT001 - private, always passed by the one caller above
) -> Checkpoint:
    config = _json(folder / "config.json")
    if config is None:
        raise ConfigError(f"{str(folder)!r} holds no model: there is no config.json")
    weights = _weights(folder)
    if not weights or (weights[0].suffix != ".safetensors" and not allow_pickle):
        raise ConfigError(
            f"{model!r} has no safetensors weights; convert it, or pass `allow_pickle=True` if "
            "you trust its files: unpickling can run any code"
        )
    if not any((folder / file).exists() for file in _TOKENIZER_FILES):
        raise ConfigError(f"{model!r} has no tokenizer; save one beside it (tokenizer.json)")
    tokenizer_config = _json(folder / "tokenizer_config.json") or {}
    longest = _longest(config, tokenizer_config)
    checkpoint = Checkpoint(
        model=model,
        folder=folder,
        revision=commit or _digest(folder),
        config=config,
        tokenizer_config=tokenizer_config,
        max_length=_chosen(max_length, longest),
        longest=longest,
    )
    _check_kind(checkpoint)
    return checkpoint


def _check_kind(checkpoint: Checkpoint) -> None:
    """Refuse what would load and give meaningless scores."""
    model, architectures = checkpoint.model, checkpoint.architectures
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ConfigError(
            f"{model!r} is not a sequence classifier (architectures: {list(architectures)}), so "
            "its scores would be meaningless; choose a reranker (cross-encoder)"
        )
    if checkpoint.num_labels != 1:
        raise ConfigError(
            f"{model!r} gives {checkpoint.num_labels} labels per pair; a reranker gives 1"
        )


def _longest(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int | None:
    """The most tokens the model has positions for and its tokenizer was made for."""
    limits = [tokenizer_config.get("model_max_length")]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 0) + 1
    limits.append(positions)
    known = [int(x) for x in limits if isinstance(x, int | float) and 0 < x < _NO_LIMIT]
    return min(known, default=None)


def _chosen(max_length: int | None, longest: int | None) -> int:
    if max_length is None:
        return min(longest or _DEFAULT_MAX_LENGTH, _DEFAULT_MAX_LENGTH)
    if longest is not None and max_length > longest:
        raise ConfigError(
            f"`max_length` is {max_length}, but the model can read at most {longest} tokens"
        )
    return max_length


def _weights(folder: Path) -> tuple[Path, ...]:
    safe = sorted(folder.glob("model*.safetensors"))
    return tuple(safe or sorted(folder.glob("pytorch_model*.bin")))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {str(path)!r}: {exc}") from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{str(path)!r} holds no JSON object")
    return content


def _digest(folder: Path) -> str:
    """Digest the small files, and samples of every tensor of the large ones."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".jinja", ".json", ".model", ".py", ".txt"}:
            content = hashlib.sha256(path.read_bytes()).digest()
            digest.update(path.name.encode() + b"\0" + content)
    for path in _weights(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start, length in _samples(path, size):
                file.seek(start)
                digest.update(file.read(length))
    return digest.hexdigest()


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length): a safetensors header and three blocks per tensor; else 256 blocks."""
    if path.suffix != ".safetensors":
        yield from ((start, _SAMPLE) for start in range(0, size, max(size // 256, _SAMPLE)))
        return
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        header = file.read(min(header_size, size))
    yield 0, 8 + len(header)
    for name, tensor in json.loads(header).items():
        if name != "__metadata__":
            start, end = (8 + header_size + offset for offset in tensor["data_offsets"])
            for at in (start, (start + end) // 2, end - _SAMPLE):
                yield max(at, start), min(_SAMPLE, end - max(at, start))
