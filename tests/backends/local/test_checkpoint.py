"""Checkpoints: which are accepted, how they are identified, how hub errors are translated."""

from __future__ import annotations

import importlib
import importlib.util
import json
import operator
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import huggingface_hub
import numpy as np
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from rerank_plugins import AuthenticationError, BackendUnavailable, ConfigError
from rerank_plugins.backends.local.checkpoint import resolve
from tests.support.checkpoints import build_language_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(checkpoint: Callable[[str], str], tmp_path: Path) -> Path:
    """A checkpoint of its own for each test."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "tiny"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_is_read(folder: Path) -> None:
    resolved = resolve(str(folder))

    assert "tiny" == resolved.model
    assert folder == resolved.folder
    assert "bert" == resolved.model_type
    assert ("BertForSequenceClassification",) == resolved.architectures
    assert (1, 512, 512, True) == (
        resolved.num_labels,
        resolved.max_length,
        resolved.longest,
        resolved.uses_types,
    )
    assert f"tiny@{resolved.revision[:12]}" == resolved.name


@pytest.mark.parametrize(
    ("kind", "longest", "max_length", "uses_types"),
    [
        ("distilbert", 512, 512, True),
        ("modernbert", 8192, 1024, False),
        ("roberta", 512, 512, False),
        ("xlm-roberta", 512, 512, False),
    ],
)
def test_limits_are_read_from_the_files(
    kind: str,
    longest: int,
    max_length: int,
    uses_types: bool,  # noqa: FBT001 - a parameter of the test
    checkpoint: Callable[[str], str],
) -> None:
    resolved = resolve(checkpoint(kind))

    assert (longest, max_length, uses_types) == (
        resolved.longest,
        resolved.max_length,
        resolved.uses_types,
    )


def test_positions_behind_the_padding_index_are_not_counted(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """A RoBERTa of 514 positions reads 512 tokens, also if its tokenizer says nothing."""
    shutil.copytree(checkpoint("roberta"), tmp_path / "tiny")
    edit(tmp_path / "tiny" / "tokenizer_config.json", model_max_length=10**30)

    assert 512 == resolve(str(tmp_path / "tiny")).longest


def test_max_length_is_kept_within_the_model(folder: Path) -> None:
    assert 64 == resolve(str(folder), max_length=64).max_length
    with pytest.raises(ConfigError, match="600, but the model can read at most 512"):
        resolve(str(folder), max_length=600)


def test_revision_ignores_the_path_and_notices_every_change(folder: Path, tmp_path: Path) -> None:
    """Also one number in the middle of any tensor's head, and one word of the tokenizer."""
    before = resolve(str(folder)).revision
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert before == resolve(str(copy)).revision

    seen = {before}
    weights = load_file(copy / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias", "bert.encoder.layer.1.output.dense.bias"):
        changed = {**weights, name: weights[name] + np.float32(1e-3)}
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        seen.add(resolve(str(copy)).revision)
    edit(copy / "tokenizer_config.json", do_lower_case=False)
    seen.add(resolve(str(copy)).revision)
    edit(copy / "config.json", layer_norm_eps=1e-5)
    seen.add(resolve(str(copy)).revision)

    assert 6 == len(seen)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without("config.json"), "without a config.json"),
        (_without("model.safetensors"), "no safetensors weights; .*allow_pickle"),
        (_without("tokenizer.json"), "has no tokenizer"),
        (_with(architectures=["BertModel"]), "a bare encoder.*'BertModel'"),
        (_with(architectures=None), "neither a sequence classifier"),
        (_with(model_type="cost_wise_gemma", start_layer=8, layer_sep=1), "several layers .*'8'"),
        (_with(architectures=["LayerWiseMiniCPMForCausalLM"], start_layer=8), "several layers"),
        (_with(id2label={"0": "a", "1": "b", "2": "c"}), "3 labels per pair .*'c'.*set `label`"),
        (_with(id2label={"0": "a", "1": "b"}), "2 labels per pair"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't read .*config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_a_model_that_is_not_a_reranker_is_refused(
    harm: Callable[[Path], None], message: str, folder: Path
) -> None:
    harm(folder)
    with pytest.raises(ConfigError, match=message):
        resolve(str(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "a/b.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_what_has_no_end_is_not_read(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(folder / "pipe")
        path.symlink_to(folder / "pipe")
    with pytest.raises(ConfigError, match=f"{path.name}' is a pipe, a device or a socket"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["num_labels", "num_hidden_layers", "n_layer"])
def test_counts_that_no_model_has_build_nothing(folder: Path, name: str) -> None:
    """Libraries, and we, would make 100 million objects before they look at the weights."""
    edit(folder / "config.json", **{name: 10**8})
    with pytest.raises(ConfigError, match=f"`{name}` is 100000000; it is damaged"):
        resolve(str(folder))


def _in_vocabulary(content: Any) -> None:
    content["model"]["vocab"]["[far]"] = 10**9


def _in_vocabulary_first(content: Any) -> None:
    content["model"]["vocab"] = {"[far]": 2**31 - 1, **content["model"]["vocab"]}


def _added(content: Any) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "content": "[far]", "id": 10**9})


@pytest.mark.parametrize("change", [_in_vocabulary, _in_vocabulary_first, _added])
@pytest.mark.parametrize("indent", [None, 1])
def test_tokens_far_above_any_vocabulary_are_refused(
    folder: Path, change: Callable[[Any], None], indent: int | None
) -> None:
    """`tokenizers` would list all numbers below: gigabytes."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=indent))
    with pytest.raises(ConfigError, match="' gives a token the number"):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["vocab.json", "added_tokens.json"])
def test_tokens_of_older_files_are_looked_at_too(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"near": 5, "far": 10**9}))
    with pytest.raises(ConfigError, match=f"{name}' gives a token the number 1000000000"):
        resolve(str(folder))


def test_large_numbers_elsewhere_in_a_tokenizer_are_none_of_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"][":123456789"] = 7
    content["model"]["max_input_chars_per_word"] = 10**9
    path.write_text(json.dumps(content))
    resolve(str(folder))


def test_pickled_weights_need_permission(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="unpickling can run any code"):
        resolve(str(folder))

    assert (folder / "pytorch_model.bin",) == resolve(str(folder), allow_pickle=True).weights


@pytest.mark.parametrize("model", ["./missing", "/missing/model", "~/missing", "a/b/c", "a b"])
def test_a_missing_folder_is_named_in_the_error(model: str) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        resolve(model)


def test_a_folder_has_no_revision_of_the_hub(folder: Path) -> None:
    with pytest.raises(ConfigError, match="`revision` belongs to hub models"):
        resolve(str(folder), revision="main")


class Hub:
    """Stands where `snapshot_download` is: gives a folder, or an error."""

    def __init__(self, folder: Path | None = None, error: Exception | None = None) -> None:
        self.folder = folder
        self.error = error
        self.asked: list[dict[str, Any]] = []

    def __call__(self, model: str, **options: Any) -> str:
        self.asked.append({"model": model, **options})
        if self.error is not None:
            raise self.error
        return str(self.folder)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that has one model, in a snapshot folder named by its commit."""
    made = Hub(folder.rename(folder.parent / COMMIT))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


def test_a_hub_model_is_identified_by_its_commit(hub: Hub) -> None:
    resolved = resolve("owner/tiny", revision="main", cache_folder="/cache", local_files_only=True)

    assert ("owner/tiny", COMMIT, "owner/tiny@0123456789ab") == (
        resolved.model,
        resolved.revision,
        resolved.name,
    )
    asked = hub.asked[0]
    assert ("main", "/cache", True) == (
        asked["revision"],
        asked["cache_dir"],
        asked["local_files_only"],
    )
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*.py", "*.bin"} & set(asked["allow_patterns"])


def test_pickles_are_fetched_only_where_there_is_nothing_else(hub: Hub) -> None:
    resolve("owner/tiny", allow_pickle=True)
    assert 1 == len(hub.asked)

    assert hub.folder is not None
    (hub.folder / "model.safetensors").rename(hub.folder / "model.bin")
    with pytest.raises(ConfigError, match="has no weights"):
        resolve("owner/tiny", allow_pickle=True)
    assert "pytorch_model*.bin" in hub.asked[2]["allow_patterns"]


def test_the_answer_tokens_of_a_language_model_are_fetched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand in a folder of their own, from which nothing else is taken."""
    folder = build_language_model("qwen3", tmp_path / COMMIT)
    made = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    resolved = resolve("owner/tiny")

    assert resolved.answer_tokens is not None
    assert isinstance(resolved.answer_tokens.true, int)
    assert ["*/*"] == made.asked[0]["ignore_patterns"]
    assert (["1_LogitScore/config.json", "1_LogitScore/model.safetensors"], None) == (
        made.asked[1]["allow_patterns"],
        made.asked[1]["ignore_patterns"],
    )


def test_only_folders_of_the_model_are_fetched_for_modules(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of places outside of it, `modules.json` says nothing that is asked for."""
    commit = folder.rename(folder.with_name(COMMIT))
    listed = [{"path": path} for path in ("", "1_Pooling", "../x", "a/b", "/etc", "*", "..")]
    (commit / "modules.json").write_text(json.dumps(listed))
    made = Hub(commit)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    with pytest.raises(ConfigError, match="is a chain of the modules"):
        resolve("owner/tiny")

    assert ["1_Pooling/config.json", "1_Pooling/model.safetensors"] == made.asked[1][
        "allow_patterns"
    ]


def test_remote_code_needs_a_commit(hub: Hub) -> None:
    for revision in (None, "main", COMMIT[:12]):
        with pytest.raises(ConfigError, match="must be the commit you have read"):
            resolve("owner/tiny", trust_remote_code=True, revision=revision)
    assert [] == hub.asked

    resolve("owner/tiny", trust_remote_code=True, revision=COMMIT)
    assert "*.py" in hub.asked[0]["allow_patterns"]


def _errors_of_clients() -> Iterator[Exception]:
    """Errors of every HTTP client that a version of huggingface-hub uses, and of its transfers."""
    for client, names in {
        "httpx": ("ConnectError", "InvalidURL", "ReadTimeout"),
        "httpx2": ("ConnectError", "InvalidURL", "ReadTimeout"),
        "requests": ("ConnectionError", "exceptions.InvalidURL"),
    }.items():
        if importlib.util.find_spec(client):
            library = importlib.import_module(client)
            for name in names:
                yield operator.attrgetter(name)(library)("bad")
    yield RuntimeError("bad")


def _http(error: type[Exception]) -> Exception:
    """Build an error of the hub client without the response that it wants."""
    built = error.__new__(error)
    built.args = ("refused",)
    return built


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (_http(errors.GatedRepoError), AuthenticationError, "accept its terms"),
        (_http(errors.RevisionNotFoundError), ConfigError, "no revision 'v9'"),
        (_http(errors.RepositoryNotFoundError), ConfigError, "no such model on the hub"),
        (errors.HFValidationError("bad"), ConfigError, "neither a folder nor an id"),
        (_http(errors.LocalEntryNotFoundError), BackendUnavailable, "hub at .* can't be reached"),
        (errors.OfflineModeIsEnabled("off"), BackendUnavailable, "hub at .* can't be reached"),
        (_http(errors.HfHubHTTPError), BackendUnavailable, "could not be downloaded"),
        (ConnectionError("reset"), BackendUnavailable, "ConnectionError: reset"),
        *[
            (error, BackendUnavailable, f"could not be downloaded: {type(error).__name__}: bad")
            for error in _errors_of_clients()
        ],
    ],
)
def test_the_hubs_errors_become_ours(
    error: Exception, expected: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(error=error))
    with pytest.raises(expected, match=message) as raised:
        resolve("owner/tiny", revision="v9")

    assert error is raised.value.__cause__


@pytest.mark.parametrize(
    ("model", "offline", "message"),
    [
        ("owner/tiny", False, "hub at https://mirror can't be reached; .*HF_ENDPOINT.*`embedded`"),
        ("owner/tiny", True, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids"),
        ("bge-reranker-base", False, "did you mean 'BAAI/bge-reranker-base'"),
        ("jina-reranker-v2-base", True, "did you mean 'jinaai/jina-reranker-v2-base'"),
    ],
)
def test_an_unreachable_hub_is_told_in_a_few_lines(
    model: str, *, offline: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise errors.LocalEntryNotFoundError("not found") from ConnectionError("refused")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(BackendUnavailable, match=message) as raised:
        resolve(model)

    assert "refused" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("name", ["tiny", "tiny/deeper", "a/b/c"])
def test_a_missing_folder_is_named_where_it_was_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=f"no folder '~/{name}' \\({tmp_path}/{name}\\)"):
        resolve(f"~/{name}")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.onnx"])
def test_a_file_in_place_of_a_folder_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"is a file; give the folder that it is in: {tmp_path}"):
        resolve(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["ConnectError", "ReadTimeout"])
@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_the_errors_of_any_http_client_become_ours(
    client: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub client has changed its own from `requests` to httpx to httpx2."""
    error = getattr(pytest.importorskip(client), kind)("late")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(error=error))
    with pytest.raises(BackendUnavailable, match=f"{kind}: late") as raised:
        resolve("owner/tiny")

    assert error is raised.value.__cause__


def test_a_model_that_is_not_cached_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error = _http(errors.LocalEntryNotFoundError)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(error=error))
    with pytest.raises(ConfigError, match="hf download owner/tiny"):
        resolve("owner/tiny", local_files_only=True)
