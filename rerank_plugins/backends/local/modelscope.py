"""The ModelScope hub: downloading a model's files, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.hub import ListedFiles, error_chain, ignored_by, shorten
from rerank_plugins.errors import AuthenticationError, BackendUnavailable, ConfigError

__all__ = ["fetch_from_modelscope", "list_files_on_modelscope"]

_ACCESS = "set MODELSCOPE_API_TOKEN to a token of an account that may read it"


def fetch_from_modelscope(
    model: str,
    *,
    revision: str | None,
    cache_folder: str | None,
    local_files_only: bool,
    patterns: Sequence[str],
) -> Path:
    """Return the folder of a model's files; download what is missing.

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
    with _translated(model, revision) as api:
        return Path(
            api.download_repo(
                model,
                "model",
                revision=revision,
                cache_dir=cache_folder,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
                ignore_patterns=ignored_by(patterns),
            )
        )


def list_files_on_modelscope(model: str, *, revision: str | None) -> ListedFiles:
    """Return the names and sizes of a model's files, without fetching any.

    Raises:
        RerankError: as of `fetch_from_modelscope`.
    """
    with _translated(model, revision) as api:
        listed = api.list_repo_files(model, "model", revision=revision)
        return ListedFiles(None, {each.path: int(each.size or 0) for each in listed})


@contextmanager
def _translated(model: str, revision: str | None) -> Iterator[Any]:
    """Give the client, and raise its errors as ours."""
    client = require("modelscope_hub", extra="modelscope")
    config = require("modelscope_hub.config", extra="modelscope")
    errors = require("modelscope_hub.errors", extra="modelscope")
    which = f"the model {model!r}" + ("" if revision is None else f" (revision {revision!r})")
    try:
        # Its default configuration is that of the first call: the environment may have changed.
        yield client.HubApi(config.HubConfig())
    except errors.CacheNotFound as exc:
        raise ConfigError(
            f"{which} is not in the local cache of ModelScope; drop `local_files_only` to "
            "download it"
        ) from exc
    except Exception as exc:  # its own, those of requests, and of the system
        causes = [*error_chain(exc)]
        words = f"{type(exc).__name__}: {_first_line(exc)}"
        if any(isinstance(cause, errors.NotExistError) for cause in causes):
            raise ConfigError(f"{which} is not on ModelScope, or not for you; {_ACCESS}") from exc
        refusals = (errors.AuthenticationError, errors.PermissionDeniedError)
        if any(isinstance(cause, refusals) for cause in causes):
            raise AuthenticationError(f"ModelScope refuses {which}: {words}; {_ACCESS}") from exc
        if isinstance(exc, errors.InvalidParameter):
            raise ConfigError(f"ModelScope can't look up {which}: {words}") from exc
        shorten(exc)
        raise BackendUnavailable(
            f"{which} could not be downloaded from ModelScope: {words}; check the network and "
            "MODELSCOPE_ENDPOINT, take an earlier download with `local_files_only`, or give the "
            "path of a folder"
        ) from exc


def _first_line(error: Exception) -> str:
    """Return what an error says, without the request and the response below it."""
    return next(iter(str(error).splitlines()), "")
