"""What is said of a model before it is downloaded: from a hub's small files alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import transformers

from rerank_plugins import load_backend
from rerank_plugins.backend import ModelCheck
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.model_card import read_card
from rerank_plugins.cli.doctor.diagnose import diagnose
from rerank_plugins.wrappers.cache import CachedBackend
from tests.backends.local.bi_encoders import (
    build_embedding_model,
    build_pylate,
    build_stanford,
    edit,
)
from tests.backends.local.test_module_chain import ettin
from tests.support.checkpoints import build, build_chain, build_language_model
from tests.support.huggingface_hub import COMMIT, HuggingFaceHub

CARD = "---\nlanguage:\n- en\n- zh\nlicense: apache-2.0\ntags: [reranker]\n---\n# A reranker\n"


def cross_encoder(folder: Path) -> None:
    build("xlm-roberta", folder)
    (folder / "README.md").write_text(CARD)
    (folder / "pytorch_model.bin").write_bytes(bytes(500_000))


def base_model(folder: Path) -> None:
    build("bert", folder)
    edit(folder, "config.json", architectures=["BertModel"])


def deberta(folder: Path) -> None:
    """By its configuration alone, which is all that is read."""
    build("bert", folder)
    names = ["DebertaV2ForSequenceClassification"]
    edit(folder, "config.json", architectures=names, model_type="deberta-v2")


def own_code(folder: Path) -> None:
    build("bert", folder)
    names = {
        "AutoConfig": "owner/code--configuration.FancyConfig",
        "AutoModelForSequenceClassification": "modeling.Fancy",
    }
    edit(folder, "config.json", auto_map=names, model_type="fancy")
    (folder / "modeling.py").write_text("raise SystemExit('never run')")


def unknown_type(folder: Path) -> None:
    build("bert", folder)
    edit(folder, "config.json", model_type="not-yet-known")


def graph_alone(folder: Path) -> None:
    build("bert", folder)
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(bytes(700_000))


def pickled(folder: Path) -> None:
    build("bert", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def gguf(folder: Path) -> None:
    folder.mkdir()
    (folder / "reranker.Q4.gguf").write_bytes(b"GGUF" + bytes(90_000))


def adapter(folder: Path) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
    base = {"base_model_name_or_path": "owner/cross_encoder"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **base}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")


MODELS: dict[str, Callable[[Path], Any]] = {
    "adapter": adapter,
    "base_model": base_model,
    "chain": lambda to: build_chain("modernbert", to, "cls", *ettin()),
    "colbert": lambda to: build_pylate("modernbert", to),
    "cross_encoder": cross_encoder,
    "deberta": deberta,
    "embedding": lambda to: build_embedding_model("bert", to, "mean"),
    "gguf": gguf,
    "graph": graph_alone,
    "language_model": lambda to: build_language_model("qwen3", to, chained=False, template=None),
    "own_code": own_code,
    "pickled": pickled,
    "stanford": build_stanford,
    "unknown_type": unknown_type,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HuggingFaceHub]:
    """A hub, in reach of no environment variable, of all the models."""
    place = tmp_path_factory.mktemp("hub")
    served = HuggingFaceHub()
    for name, write in MODELS.items():
        write(place / name)
        served.folders[f"owner/{name}"] = place / name
    (place / "code").mkdir()
    served.folders["owner/code"] = place / "code"
    with pytest.MonkeyPatch.context() as monkeypatch, served.serving(monkeypatch):
        yield served


def check(hub: HuggingFaceHub, name: str, cache: Path, **options: Any) -> ModelCheck:
    hub.sent.clear()
    (only,) = LocalBackend(f"owner/{name}", cache_folder=cache, **options).check_models()
    return only


def assert_weights_stay(hub: HuggingFaceHub) -> None:
    """At most the start of their files was sent, where the header is."""
    large = (".safetensors", ".bin", ".onnx", ".gguf", "tokenizer.json")
    assert not any(sent > 100_001 for file, sent in hub.sent.items() if file.endswith(large))


LOADS = {
    "chain": ("cross-encoder", "ModernBertModel", ["onnx", "torch"], "probability"),
    "colbert": ("late interaction", "ModernBertModel", ["onnx", "torch"], "similarity"),
    "cross_encoder": (
        "cross-encoder",
        "XLMRobertaForSequenceClassification",
        ["onnx", "torch"],
        "probability",
    ),
    "deberta": ("cross-encoder", "DebertaV2ForSequenceClassification", ["torch"], "probability"),
    "embedding": ("embedding model", "BertModel", ["onnx", "torch"], "similarity"),
    "graph": ("cross-encoder", "BertForSequenceClassification", ["onnx"], "probability"),
    "stanford": ("late interaction", "HF_ColBERT", ["onnx", "torch"], "similarity"),
}


@pytest.mark.parametrize("name", LOADS)
def test_the_kind_of_a_model_is_known_before_its_weights(
    name: str, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    """The same as once the model is here, and no weight is sent but the start of its file."""
    found = check(hub, name, tmp_path)
    facts = found.facts
    method, architecture, engines, scale = LOADS[name]

    assert found.ok, found.detail
    assert (method, engines, scale) == (facts["method"], facts["engines"], facts["scale"])
    assert architecture == facts["architecture"]
    assert COMMIT == facts["revision"]
    (here,) = LocalBackend(hub.folders[f"owner/{name}"]).check_models()
    assert here.ok, here.detail
    same = {*facts} - {"revision", "download"}
    assert {each: here.facts[each] for each in same} == {each: facts[each] for each in same}
    assert_weights_stay(hub)
    assert [] == [*tmp_path.iterdir()], "nothing of it stays"
    assert "probability" == LocalBackend("owner/x", cache_folder=tmp_path).scale


def test_the_card_and_the_size_are_told(hub: HuggingFaceHub, tmp_path: Path) -> None:
    facts = check(hub, "cross_encoder", tmp_path).facts
    folder = hub.folders["owner/cross_encoder"]
    wanted = sum(
        path.stat().st_size for path in folder.iterdir() if path.suffix not in {".bin", ".md"}
    )

    assert ["en", "zh"] == facts["languages"]
    assert "apache-2.0" == facts["licence"]
    assert f"{wanted / 1000:.3g} kB" == facts["download"]
    assert "float32" == facts["dtype"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert sum(each.numel() for each in model.parameters()) == facts["parameters"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("language_model", {}, "name no answer tokens; set `template` to one of"),
        ("base_model", {}, "is a bare encoder"),
        ("gguf", {}, "models in GGUF, which llama.cpp runs"),
        ("pickled", {}, "no safetensors weights; convert it, or pass `allow_pickle=True`"),
        ("unknown_type", {}, "does not know the model_type 'not-yet-known'"),
        ("graph", {"engine": "torch"}, "it is an ONNX graph"),
        ("deberta", {"engine": "onnx"}, "can't build model_type 'deberta-v2'"),
        ("nothing", {}, "no such model on the hub"),
        ("chain", {"revision": "v9"}, "has no revision 'v9'"),
        ("cross_encoder", {"max_length": 9_999}, "can read at most"),
    ],
)
def test_what_does_not_load_says_why_and_what_to_do(
    name: str, options: dict[str, Any], message: str, hub: HuggingFaceHub, tmp_path: Path
) -> None:
    found = check(hub, name, tmp_path, **options)

    assert not found.ok
    assert message in found.detail
    assert_weights_stay(hub)


@pytest.mark.parametrize(
    ("name", "options"),
    [("language_model", {"template": "qwen3-reranker"}), ("pickled", {"allow_pickle": True})],
)
def test_what_the_error_advises_helps(
    name: str, options: dict[str, Any], hub: HuggingFaceHub, tmp_path: Path
) -> None:
    found = check(hub, name, tmp_path, **options)

    assert found.ok, found.detail
    assert "torch" in str(found.facts["engines"])
    if name == "language_model":
        assert "language model" == found.facts["method"]
        assert "only the torch engine" in str(found.facts["not onnx"])
        assert "yes" == found.facts["true_token"]


def test_foreign_code_is_named_with_the_commits_to_pin(hub: HuggingFaceHub, tmp_path: Path) -> None:
    found = check(hub, "own_code", tmp_path)
    pins = f"revision={COMMIT}&code_revisions=owner/code@{COMMIT}"

    assert not found.ok
    assert f"trust_remote_code=true&{pins}" in found.detail
    assert pins == found.facts["code"]
    (trusted,) = load_backend(
        f"local:owner/own_code?trust_remote_code=true&{pins}&cache_folder={tmp_path}"
    ).check_models()
    assert trusted.ok, trusted.detail


def test_an_adapter_names_its_base(hub: HuggingFaceHub, tmp_path: Path) -> None:
    found = check(hub, "adapter", tmp_path)

    assert found.ok
    assert ("adapter", "owner/cross_encoder") == (found.facts["method"], found.facts["base"])


def test_large_files_are_not_fetched_whole(
    hub: HuggingFaceHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    shutil.copytree(hub.folders["owner/cross_encoder"], large)
    tokenizer = json.loads((large / "tokenizer.json").read_text())
    (large / "tokenizer.json").write_text(json.dumps({**tokenizer, "padded": "x" * (2 << 20)}))
    monkeypatch.setitem(hub.folders, "owner/large", large)
    found = check(hub, "large", tmp_path / "cache")

    assert found.ok, found.detail
    assert "tokenizer.json" not in hub.sent
    assert "download: 2.7 MB" in found.detail


def test_a_model_that_is_here_asks_no_hub(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.sent.clear()
    (missing,) = LocalBackend(
        "owner/cross_encoder", cache_folder=tmp_path, local_files_only=True
    ).check_models()
    assert not missing.ok
    assert "not in the local cache" in missing.detail

    place = tmp_path / "models--owner--cross_encoder"
    shutil.copytree(hub.folders["owner/cross_encoder"], place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for options in ({}, {"local_files_only": True}):
        (here,) = LocalBackend(
            "owner/cross_encoder", cache_folder=tmp_path, **options
        ).check_models()
        assert here.ok, here.detail
        assert str(here.facts["download"]).startswith("nothing")
    assert {} == hub.sent


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("", {}),
        ("no head", {}),
        ("---\nlanguage: en\n", {}),
        ("---\nlanguage: [\n---\n", {}),
        ("---\nlanguage: &a [*a]\nlicense: {}\n---\n", {}),
        ("---\nlanguage: " + "[" * 60_000 + "\n---\n", {}),
        ("---\nlanguage:\nlicense:\n---\n- en\n", {}),
        ("---\nlanguage: multilingual\n---\n", {"languages": ["multilingual"]}),
        ("---\nlanguage: [en, 'zh']\n---\n", {"languages": ["en", "zh"]}),
        ("---\r\nlanguage:\r\n  - no\r\n---\r\n", {"languages": ["no"]}),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", {"licence": "gemma"}),
        (
            "---\nlanguage:\n" + "".join(f"- l{n}\n" for n in range(99)) + "license: mit\n---\n",
            {"languages": [*(f"l{n}" for n in range(12)), "and 87 more"], "licence": "mit"},
        ),
    ],
)
def test_a_card_is_read_as_far_as_it_is_plain(
    card: str, expected: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert expected == read_card(tmp_path)


def test_doctor_says_it_and_downloads_nothing(hub: HuggingFaceHub, tmp_path: Path) -> None:
    hub.sent.clear()
    spec = f"local:owner/embedding?cache_folder={tmp_path}"
    report = diagnose(spec, score=False)
    assert "embedding model" == report.model["method"]
    assert "similarity" == report.model["scale"]
    assert [True, True] == [each.ok for each in report.checks]
    assert_weights_stay(hub)

    seen = []
    broken = diagnose(f"local:owner/gguf?cache_folder={tmp_path}", before_score=seen.append)
    assert not broken.ok
    assert [] == seen, "nothing is scored or downloaded"
    assert ["spec", "model"] == [each.name for each in broken.checks]


def test_wrappers_pass_the_check_on(hub: HuggingFaceHub, tmp_path: Path) -> None:
    inner = LocalBackend("owner/colbert", cache_folder=tmp_path)
    (found,) = CachedBackend(inner).check_models()
    assert "late interaction" == found.facts["method"]
    assert [] == [*load_backend("embedded").check_models()]
