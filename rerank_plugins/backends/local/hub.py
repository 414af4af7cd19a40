"""The Hugging Face hub: downloading a model's files, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.model_owners import with_owner
from rerank_plugins.errors import (
    AuthenticationError,
    BackendUnavailable,
    ConfigError,
    MissingDependencyError,
)

__all__ = [
    "ListedFiles",
    "cached_folder",
    "error_chain",
    "fetch",
    "fetch_header",
    "ignored_by",
    "list_files",
    "shorten",
]

_FIRST_ERROR = 400
"""The lowest HTTP status that tells of an error."""

_PRIVATE = "; if it is private, set HF_TOKEN or run `hf auth login`"


@dataclass(frozen=True)
class ListedFiles:
    """What a hub has of a model."""

    commit: str | None
    """The commit that was listed; None where the hub names none."""
    sizes: Mapping[str, int]
    """The bytes of each file, by its path."""


def fetch(
    model: str,
    *,
    revision: str | None,
    cache_folder: str | None,
    local_files_only: bool,
    patterns: Sequence[str],
) -> Path:
    """Return the folder of a model's files, named by its commit; download what is missing.

    Args:
        model: the id on the hub.
        revision: branch, tag or commit; None: the default branch.
        cache_folder: where models are kept; None: the hub client's own folder.
        local_files_only: use only what that folder has.
        patterns: the files of the top folder to get, or with a `/` the files below it.

    Raises:
        ConfigError: there is no such model or revision, or it is not in the folder.
        AuthenticationError: the hub refuses access to the model.
        BackendUnavailable: the hub can't be reached, or the download failed.
        MissingDependencyError: the hub client is not installed.
    """
    hub = require("huggingface_hub", extra="onnx")
    with _translated(model, revision, local_files_only=local_files_only):
        return Path(
            hub.snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_folder,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
                ignore_patterns=ignored_by(patterns),
            )
        )


def list_files(model: str, *, revision: str | None) -> ListedFiles:
    """Return the names and sizes of a model's files, without fetching any.

    Raises:
        ConfigError: there is no such model or revision.
        AuthenticationError: the hub refuses access to the model.
        BackendUnavailable: the hub can't be reached.
        MissingDependencyError: the hub client is not installed.
    """
    hub = require("huggingface_hub", extra="onnx")
    with _translated(model, revision, local_files_only=False):
        info = hub.HfApi().model_info(model, revision=revision, files_metadata=True)
        sizes = {each.rfilename: int(each.size or 0) for each in info.siblings or ()}
        return ListedFiles(info.sha, sizes)


def fetch_header(model: str, name: str, *, revision: str | None) -> Mapping[str, Mapping[str, Any]]:
    """Return the entries in the header of a safetensors file, which alone is fetched.

    Raises:
        RerankError: as of `list_files`.
    """
    hub = require("huggingface_hub", extra="onnx")
    with _translated(model, revision, local_files_only=False):
        found = hub.HfApi().parse_safetensors_file_metadata(model, name, revision=revision)
        return {
            tensor: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": list(entry.data_offsets),
            }
            for tensor, entry in found.tensors.items()
        }


@contextmanager
def _translated(model: str, revision: str | None, *, local_files_only: bool) -> Iterator[None]:
    """Raise errors of the client as ours."""
    errors = require("huggingface_hub.errors", extra="onnx")
    owner = with_owner(model)
    guess = f"; did you mean {owner!r}?" if owner else ""
    try:
        yield
    except errors.GatedRepoError as exc:
        raise AuthenticationError(
            f"the model {model!r} is gated: accept its terms on its page at the hub, then set "
            "HF_TOKEN or run `hf auth login`"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise ConfigError(f"the model {model!r} has no revision {revision!r}") from exc
    except errors.RepositoryNotFoundError as exc:
        raise ConfigError(
            f"there is no folder {model!r}, and no such model on the hub{guess or _PRIVATE}"
        ) from exc
    except errors.HFValidationError as exc:
        raise ConfigError(f"{model!r} is neither a folder nor an id of a model: {exc}") from exc
    except Exception as exc:  # its HTTP client (httpx, httpx2, requests) and hf_xet have their own
        is_missing = isinstance(exc, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
        if is_missing and local_files_only:
            raise ConfigError(
                f"the model {model!r} is not in the local cache; download it once with: "
                f"hf download {owner or model}, or drop `local_files_only`"
            ) from exc
        if (status := _status(exc)) is not None:
            shorten(exc)
            raise _refusal(model, status) from exc
        is_page = any(isinstance(each, ValueError) for each in error_chain(exc))
        shorten(exc)
        if is_missing:
            raise BackendUnavailable(
                f"the model {model!r} is not in the local cache and {_unreachable()}{guess}"
            ) from exc
        page = f"; {_hub()} may be no hub, or a sign-in page is in between" if is_page else ""
        raise BackendUnavailable(
            f"the model {model!r} could not be downloaded: {type(exc).__name__}: {exc}{page}"
        ) from exc


def cached_folder(model: str, *, revision: str | None, cache_folder: str | None) -> Path | None:
    """Return where the cache has files of a model, or None; asks nobody and loads no client."""
    try:
        constants = require("huggingface_hub.constants", extra="onnx")
        place = Path(cache_folder or constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
        reference = place / "refs" / (revision or constants.DEFAULT_REVISION)
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
        folder = place / "snapshots" / (commit or "")
        return folder if commit and folder.is_dir() else None
    except (MissingDependencyError, OSError, ValueError):
        return None


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shorten(error: Exception) -> None:
    """Take its frames and causes off an error: they fill pages of a notebook and say no more."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


def _status(error: Exception) -> int | None:
    """Return the HTTP status that the hub answered with, if it is one of an error."""
    for each in error_chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int) and status >= _FIRST_ERROR:
            return status
    return None


def _refusal(model: str, status: int) -> Exception:
    answer = f"{_hub()} answered HTTP {status} for the model {model!r}"
    if status in (401, 403):
        return AuthenticationError(
            f"{answer}; set HF_TOKEN to the token of an account that may read it, and look at its "
            "page: it may ask you to accept terms. A proxy that blocks the hub answers so, too"
        )
    if status in (404, 410):
        return ConfigError(
            f"{answer}; check the name, and HF_ENDPOINT: a mirror may lack the model, or be no hub"
        )
    return BackendUnavailable(
        f"{answer}; try again later, set HF_ENDPOINT to a mirror of the hub, or give the path of a "
        "folder; `embedded` needs no download"
    )


def _hub() -> str:
    return f"the hub at {require('huggingface_hub.constants', extra='onnx').ENDPOINT}"


def _unreachable() -> str:
    """Return why the hub gave nothing, and what to do."""
    constants = require("huggingface_hub.constants", extra="onnx")
    other = "or give the path of a folder; `embedded` needs no download"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub; unset it, {other}"
    return (
        f"{_hub()} can't be reached; check the network, set HF_ENDPOINT to "
        f"a mirror of the hub, {other}"
    )


def ignored_by(patterns: Sequence[str]) -> list[str] | None:
    """Return the patterns of what not to get: lower folders, where no wanted pattern names one."""
    return None if any("/" in pattern for pattern in patterns) else ["*/*"]
