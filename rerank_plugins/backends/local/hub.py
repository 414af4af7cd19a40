"""The Hugging Face hub: downloading a model's files, and its errors as ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.model_owners import with_owner
from rerank_plugins.errors import AuthenticationError, BackendUnavailable, ConfigError

__all__ = ["fetch", "ignored_by"]

_PRIVATE = "; if it is private, set HF_TOKEN or run `hf auth login`"


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
    errors = require("huggingface_hub.errors", extra="onnx")
    owner = with_owner(model)
    guess = f"; did you mean {owner!r}?" if owner else ""
    try:
        folder = hub.snapshot_download(
            model,
            revision=revision,
            cache_dir=cache_folder,
            local_files_only=local_files_only,
            allow_patterns=list(patterns),
            ignore_patterns=ignored_by(patterns),
        )
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
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as exc:
        if local_files_only:
            raise ConfigError(
                f"the model {model!r} is not in the local cache; download it once with: "
                f"hf download {owner or model}, or drop `local_files_only`"
            ) from exc
        _shorten(exc)
        raise BackendUnavailable(
            f"the model {model!r} is not in the local cache and {_unreachable()}{guess}"
        ) from exc
    except Exception as exc:  # its HTTP client (httpx, httpx2, requests) and hf_xet have their own
        _shorten(exc)
        raise BackendUnavailable(
            f"the model {model!r} could not be downloaded: {type(exc).__name__}: {exc}"
        ) from exc
    return Path(folder)


def _shorten(error: Exception) -> None:
    """Take its frames and causes off an error: they fill pages of a notebook and say no more."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


def _unreachable() -> str:
    """Return why the hub gave nothing, and what to do."""
    constants = require("huggingface_hub.constants", extra="onnx")
    other = "or give the path of a folder; `embedded` needs no download"
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub; unset it, {other}"
    return (
        f"the hub at {constants.ENDPOINT} can't be reached; check the network, set HF_ENDPOINT to "
        f"a mirror of the hub, {other}"
    )


def ignored_by(patterns: Sequence[str]) -> list[str] | None:
    """Return the patterns of what not to get: lower folders, where no wanted pattern names one."""
    return None if any("/" in pattern for pattern in patterns) else ["*/*"]
