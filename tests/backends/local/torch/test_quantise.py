"""Weights in 8 and 4 bits: how far scores move, what stays, and how little memory they take."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import numpy as np
import torch
import transformers

from rerank_plugins import MissingDependencyError
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.torch.quantise import quantise_weights, weight_bytes

QUERY = "what is a panda?"
DOCUMENTS = [
    "The giant panda is a bear species endemic to China.",
    "hi",
    "Paris is the capital of France. " * 30,
    "大熊猫是中国特有的熊科动物。",
]
NEEDS_BITSANDBYTES = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra `bitsandbytes`"
)
DTYPES = ["int8", pytest.param("int4", marks=NEEDS_BITSANDBYTES)]


def local(folder: str, dtype: str = "auto", **options: object) -> LocalBackend:
    return LocalBackend(folder, engine="torch", device="cpu", dtype=dtype, scale="logit", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_scores_move_little(kind: str, dtype: str, checkpoint: Callable[[str], str]) -> None:
    """Of random weights 4 bits are far off, and still no other numbers."""
    with local(checkpoint(kind)) as whole, local(checkpoint(kind), dtype) as small:
        expected, actual = (np.array(each.score(QUERY, DOCUMENTS)) for each in (whole, small))
        facts = small.describe()

    allowed = {"int8": 0.1, "int4": 1.5}[dtype]
    assert 0 < np.abs(expected - actual).max() < allowed
    assert f"{dtype}-float32" == facts["dtype"]
    assert f"engine=torch-{dtype}-float32" in str(facts["name"])
    assert "packed" == facts["attention"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_does_not_depend_on_its_batch(dtype: str, checkpoint: Callable[[str], str]) -> None:
    with local(checkpoint("bert"), dtype) as small:
        together = list(small.score(QUERY, DOCUMENTS))
        alone = [small.score(QUERY, [document])[0] for document in DOCUMENTS]

    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("dtype", "most"), [("int8", 0.29), pytest.param("int4", 0.19, marks=NEEDS_BITSANDBYTES)]
)
def test_the_layers_take_less_memory(
    dtype: str, most: float, checkpoint: Callable[[str], str]
) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint("qwen3"))
    words = model.model.embed_tokens.weight.nbytes
    before = weight_bytes(model) - words
    quantise_weights(model, dtype, torch.device("cpu"))  # type: ignore[arg-type]

    assert weight_bytes(model) - words < most * before
    assert torch.float32 == model.score.weight.dtype
    with local(checkpoint("qwen3"), dtype) as small:
        assert weight_bytes(model) == small.describe()["weight_bytes"]


def test_a_row_of_zeros_stays_one() -> None:
    model = torch.nn.Module()
    model.base_model_prefix = ""  # type: ignore[assignment]
    model.layer = torch.nn.Linear(8, 3)
    with torch.no_grad():
        model.layer.weight[1] = 0
    states = torch.randn(4, 8)
    expected = model.layer(states)
    quantise_weights(model, "int8", torch.device("cpu"))
    actual = model.layer(states)

    assert torch.equal(expected[:, 1], actual[:, 1])
    assert torch.allclose(expected, actual, atol=0.05)


def test_a_model_without_linear_layers_is_refused() -> None:
    model = torch.nn.Module()
    model.base_model_prefix = ""  # type: ignore[assignment]
    model.words = torch.nn.Embedding(4, 2)

    with pytest.raises(UnsupportedByEngine, match="Module has no linear layers"):
        quantise_weights(model, "int8", torch.device("cpu"))


def test_int4_names_its_extra(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    with (
        pytest.raises(MissingDependencyError, match=r"rerank-plugins\[bitsandbytes\]"),
        local(checkpoint("bert"), "int4") as backend,
    ):
        backend.score(QUERY, DOCUMENTS)


@NEEDS_BITSANDBYTES
def test_4_bits_are_nf4_in_blocks_of_64(checkpoint: Callable[[str], str]) -> None:
    """As bitsandbytes' functions round them."""
    functional = importlib.import_module("bitsandbytes.functional")
    rounded, small = (
        transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint("bert")).eval()
        for _ in range(2)
    )
    for layer in rounded.bert.encoder.modules():
        if isinstance(layer, torch.nn.Linear):
            words, state = functional.quantize_4bit(layer.weight, blocksize=64, quant_type="nf4")
            layer.weight = torch.nn.Parameter(functional.dequantize_4bit(words, state))
    quantise_weights(small, "int4", torch.device("cpu"))
    ids = torch.arange(20, 40)[None]

    with torch.inference_mode():
        assert torch.allclose(rounded(ids).logits, small(ids).logits, atol=1e-5)
