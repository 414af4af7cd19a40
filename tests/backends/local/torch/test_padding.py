"""Models whose scores padding would change, or that pad inside, score as one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch
import transformers

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.torch.accelerators import choose_devices
from tests.support.checkpoints import KINDS, _spread

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_labels": 1,
    "max_position_embeddings": 514,
}
DECODER = {**SMALL, "num_key_value_heads": 2}
SEQ2SEQ = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_labels": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
DOCUMENTS = [
    "bear",
    "panda " * 30,
    "Where? " * 20,
    "The giant panda is a bear.",
    "a b c",
    "x " * 99,
]


def built(cls: str, kind: str, folder: Path, options: dict[str, Any]) -> tuple[str, Any, Any]:
    """Save a tiny classifier with the tokenizer of a kind; return its folder and both."""
    tokenizer = KINDS[kind][0]()
    torch.manual_seed(0)
    family = getattr(transformers, f"{cls}ForSequenceClassification")
    given = {"pad_token_id": tokenizer.pad_token_id, **options}
    model = family(family.config_class(vocab_size=len(tokenizer), **given)).eval()
    if given["pad_token_id"] is None:  # one row at a time
        model.config.pad_token_id = 0
    if "eos_token_id" not in options:
        _spread(model)
    model.config.pad_token_id = given["pad_token_id"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model, tokenizer


def one_by_one(model: Any, tokenizer: Any) -> list[float]:
    scores = []
    with torch.no_grad():
        for document in DOCUMENTS:
            read = tokenizer("panda?", document, return_tensors="pt", truncation=True)
            scores.append(model(**read).logits[0, 0].item())
    return scores


NO_PADDING = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


@pytest.mark.parametrize("attention", ["auto", pytest.param("padded", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("cls", "kind", "options"),
    [
        pytest.param("Longformer", "roberta", {"attention_window": 16}, id="pads to its window"),
        pytest.param(
            "BigBird", "bert", {"block_size": 8, "num_random_blocks": 1}, id="pads to its blocks"
        ),
        pytest.param("FNet", "bert", {}, id="mixes all tokens"),
        pytest.param("ConvBert", "bert", {}, id="convolves"),
        pytest.param("MobileBert", "bert", {"embedding_size": 32}, id="reads the next token"),
        pytest.param("Bart", "roberta", SEQ2SEQ, id="reads the end token"),
        pytest.param("Llama", "qwen3", DECODER | {"pad_token_id": None}, id="no padding token"),
        pytest.param("Mistral", "qwen3", DECODER | {"pad_token_id": None}, id="mistral"),
        pytest.param("GPT2", "qwen3", NO_PADDING, id="gpt2"),
    ],
)
def test_scores_are_those_of_pairs_one_by_one(
    cls: str, kind: str, options: dict[str, Any], attention: str, tmp_path: Path
) -> None:
    sizes = {} if cls == "Bart" else SMALL
    folder, model, tokenizer = built(cls, kind, tmp_path, {**sizes, **options})
    expected = one_by_one(model, tokenizer)
    spec = {"kind": "local", "model": folder, "engine": "torch", "max_length": 256}
    with load_backend({**spec, "attention": attention, "scale": "logit"}) as backend:
        assert pytest.approx(expected, abs=2e-4) == backend.score("panda?", DOCUMENTS)
        turned = backend.score("panda?", DOCUMENTS[::-1])

    assert pytest.approx(expected[::-1], abs=2e-4) == turned
    assert max(expected) - min(expected) > 0.01


def test_a_model_that_padding_changes_says_so(tmp_path: Path) -> None:
    folder, *_ = built("ConvBert", "bert", tmp_path, SMALL)
    facts = load_backend(f"local:{folder}?engine=torch").describe()

    assert str(facts["batches"]).startswith("one pair at a time: scores would differ by")


def test_a_decoder_without_a_padding_token_is_packed_all_the_same(tmp_path: Path) -> None:
    folder, *_ = built("Llama", "qwen3", tmp_path, DECODER | {"pad_token_id": None})

    assert "packed" == load_backend(f"local:{folder}?engine=torch").describe()["attention"]


@pytest.mark.parametrize("device", ["xpu", "hpu", "mtia:0", "meta", "cpu,vulkan"])
def test_a_device_that_does_not_compute_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{device.removeprefix('cpu,')}'.*\['cpu'"):
        choose_devices(device)


@pytest.mark.parametrize("device", ["xpu", "hpu", "npu", "mps", "rocm"])
@pytest.mark.parametrize("engine", ["auto", "onnx", "torch"])
def test_a_device_that_is_not_there_is_an_error_of_ours(
    device: str, engine: str, checkpoint: Callable[[str], str]
) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    spec = {"kind": "local", "model": checkpoint("bert"), "engine": engine, "device": device}
    with pytest.raises(ConfigError, match=f"device '{device}'"):
        load_backend(spec).score("q", ["d"])
