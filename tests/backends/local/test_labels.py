"""Classifiers with several labels: which one counts, and equality with sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.labels import Label, find_label, label_logit
from tests.support.checkpoints import build_chain
from tests.support.pairs import CUT, QUERY
from tests.support.pairs import DOCUMENTS as ALL_DOCUMENTS

DOCUMENTS = ALL_DOCUMENTS[:4]


@pytest.fixture(scope="session")
def classifier(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], str]
) -> Callable[..., str]:
    """Write a classifier with some labels, and give its folder."""

    def folder(kind: str, labels: int, **changes: object) -> str:
        to = tmp_path_factory.mktemp("labels") / "model"
        shutil.copytree(checkpoint(kind), to)
        torch.manual_seed(labels)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            to, num_labels=labels, ignore_mismatched_sizes=True
        )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and name.startswith(("classifier", "score")):
                    weight.normal_(std=0.4)
        model.save_pretrained(to)
        edit(str(to), "config.json", **changes)
        return str(to)

    return folder


def edit(folder: str, name: str, **changes: object) -> None:
    path = Path(folder) / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def ours(folder: str, **options: Any) -> list[float]:
    with LocalBackend(folder, device="cpu", **CUT, **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS))


def logits(folder: str) -> Any:
    pairs = [(QUERY, document) for document in DOCUMENTS]
    return CrossEncoder(folder, device="cpu").predict(pairs, activation_fn=torch.nn.Identity())


def softmax(values: Any) -> Any:
    return torch.tensor(values).softmax(1).numpy()


@pytest.mark.parametrize("options", [
    {"engine": "onnx"},
    {"engine": "torch", "attention": "packed"},
    {"engine": "torch", "attention": "padded"},
])  # fmt: skip
@pytest.mark.parametrize("kind", ["bert", "modernbert", "xlm-roberta"])
def test_of_two_labels_the_score_is_the_difference(
    kind: str, options: dict[str, Any], classifier: Callable[..., str]
) -> None:
    folder = classifier(kind, 2)
    expected = logits(folder)
    differences = (expected[:, 1] - expected[:, 0]).tolist()

    assert differences == pytest.approx(ours(folder, scale="logit", **options), abs=1e-5)
    assert np.ptp(differences) > 0.05
    assert softmax(expected)[:, 1].tolist() == pytest.approx(ours(folder, **options), abs=1e-5)
    opposite = ours(folder, scale="logit", label=0, **options)
    assert differences == pytest.approx([-value for value in opposite], abs=1e-5)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_of_more_labels_one_is_chosen(engine: Any, classifier: Callable[..., str]) -> None:
    names = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    folder = classifier("bert", 3, id2label=names)
    expected = softmax(logits(folder))
    for label, index in (("entailment", 1), ("Neutral", 2), (0, 0), ("2", 2)):
        scored = ours(folder, engine=engine, label=label)

        assert expected[:, index].tolist() == pytest.approx(scored, abs=1e-5)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_labels_that_do_not_exclude_each_other_score_alone(
    engine: Any, classifier: Callable[..., str]
) -> None:
    folder = classifier("bert", 3, problem_type="multi_label_classification")
    expected = logits(folder)[:, 2].tolist()

    assert expected == pytest.approx(ours(folder, engine=engine, label=2, scale="logit"), abs=1e-5)


def test_a_decoder_may_have_two_labels(classifier: Callable[..., str]) -> None:
    folder = classifier("qwen3", 2)
    expected = logits(folder)
    differences = (expected[:, 1] - expected[:, 0]).tolist()

    assert differences == pytest.approx(ours(folder, scale="logit"), abs=1e-5)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_head_of_a_chain_may_have_two(engine: Any, tmp_path: Path) -> None:
    head = Dense(64, 2, activation_function=None, module_output_name="scores")
    folder = str(build_chain("modernbert", tmp_path / "m", "cls", head))
    expected = logits(folder)
    differences = (expected[:, 1] - expected[:, 0]).tolist()

    assert differences == pytest.approx(ours(folder, engine=engine, scale="logit"), abs=1e-5)


def test_the_label_is_in_the_name_and_the_description(classifier: Callable[..., str]) -> None:
    folder = classifier("bert", 2, id2label={"0": "Yes", "1": "no"})
    with load_backend({"kind": "local", "model": folder, "engine": "onnx"}) as backend:
        name, facts = backend.name, backend.describe()
    with load_backend(f"local:{folder}?engine=onnx&label=no") as other:
        assert name != other.name
        assert "no" == other.describe()["label"]

    assert "Yes" == facts["label"]


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (["LABEL_0", "LABEL_1"], 1),
        (["0", "1"], 1),
        (["relevant", "irrelevant"], 0),
        (["NO", "YES"], 1),
        (["True", "False"], 0),
        (["bad", "so-so", "relevant"], 2),
    ],
)
def test_names_tell_which_label_is_relevant(names: list[str], index: int) -> None:
    config = {"id2label": {str(i): name for i, name in enumerate(names)}}
    found = find_label("m", config, len(names), None, named=True)

    assert Label(index, names[index]) == found


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["NEGATIVE", "POSITIVE"], None),
        (["entailment", "not_entailment"], None),
        (["0", "1", "2"], None),
        (["yes", "true"], None),
        (["LABEL_0", "LABEL_1"], "relevant"),
        (["LABEL_0", "LABEL_1"], 2),
        (["LABEL_0", "LABEL_1"], -1),
    ],
)
def test_what_nobody_says_is_not_guessed(names: list[str], chosen: str | int | None) -> None:
    """A classifier of sentiments or of inference is no reranker by itself."""
    config = {"id2label": {str(i): name for i, name in enumerate(names)}}
    with pytest.raises(ConfigError, match=f"{len(names)} labels per pair .*set `label`"):
        find_label("m", config, len(names), chosen, named=True)


def test_a_label_needs_a_classifier_with_several(checkpoint: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="gives one score per pair"):
        ours(checkpoint("bert"), label=1)
    for label in (True, "", 1.5):
        with pytest.raises(ConfigError, match="`label` must be"):
            LocalBackend("x", label=label)  # type: ignore[arg-type]  # what is tested


def test_weights_of_another_number_of_labels_are_an_error(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    folder = str(shutil.copytree(checkpoint("bert"), tmp_path / "m"))
    edit(folder, "config.json", id2label={"0": "no", "1": "yes"})
    for engine in ("onnx", "torch"):
        with pytest.raises(ConfigError):
            ours(folder, engine=engine)


def test_large_logits_do_not_overflow() -> None:
    assert 800 == label_logit(np.array([100.0, 900.0], np.float32), Label(1, "x"))
