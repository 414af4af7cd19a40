"""monoT5 and its relatives: scores of transformers' own forward pass, one decoded step."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch
import transformers

from rerank_plugins import ConfigError, Query, UnsupportedInputError
from rerank_plugins.backends.local.backend import LocalBackend
from tests.support.checkpoints import KINDS

QUERY = "what is a panda?"
DOCUMENTS = [
    "The giant panda is a bear species endemic to China.",
    "",
    "hi",
    "Paris is the capital of France. " * 8,
    "大熊猫是中国特有的熊科动物。",
]
ANSWERS = {"t5": ("▁true", "▁false"), "mt5": ("▁yes", "▁no"), "umt5": ("▁true", "▁false")}
CLASSES = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny model with a tokenizer like T5's, built once."""
    built: dict[str, Path] = {}
    pieces = json.loads(KINDS["xlm-roberta"][0]().backend_tokenizer.to_str())["model"]["vocab"]
    special = ["<pad>", "</s>", "<unk>"]
    words = ["▁true", "▁false", "▁yes", "▁no"]
    known = {*special, *words, "<s>", "<mask>"}
    vocab = [(piece, 0.0) for piece in special] + [(word, -9.0) for word in words]
    vocab += [(piece, score) for piece, score in pieces if piece not in known]

    def build(kind: str) -> Path:
        if kind in built:
            return built[kind]
        folder = tmp_path_factory.mktemp(kind)
        tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)
        gated = {} if kind == "t5" else {"feed_forward_proj": "gated-gelu"}
        config = getattr(transformers, f"{CLASSES[kind]}Config")(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=3,
            num_decoder_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=kind == "t5",
            **gated,
        )
        torch.manual_seed(0)
        model = getattr(transformers, f"{CLASSES[kind]}ForConditionalGeneration")(config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1:
                    scale = 1.0 if "shared" in name or "lm_head" in name else 0.12
                    weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        built[kind] = folder
        return folder

    return build


def ours(folder: Path, **options: Any) -> tuple[list[float], dict[str, object]]:
    options = {"template": "monot5", "device": "cpu", **options}
    with LocalBackend(folder, **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS)), backend.describe()


def theirs(folder: Path, words: tuple[str, str]) -> list[float]:
    """As pygaggle: log P(true) of the two words, for the first token of the answer."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in words]
    scores = []
    for document in DOCUMENTS:
        prompt = f"Query: {QUERY} Document: {document} Relevant:"
        inputs = tokenizer(prompt, return_tensors="pt")
        assert inputs["input_ids"][0, -1] == tokenizer.eos_token_id
        with torch.inference_mode():
            logits = model(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits
        scores.append(logits[0, 0, ids].double().log_softmax(0)[0].item())
    return scores


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_scores_are_those_of_its_authors(kind: str, encoder_decoder: Callable[[str], Path]) -> None:
    """The probability is that of "true" among the two words; texts of a batch are padded."""
    folder, words = encoder_decoder(kind), ANSWERS[kind]
    options = {} if kind != "mt5" else {"true_token": words[0], "false_token": words[1]}
    chances = torch.tensor(theirs(folder, words), dtype=torch.float64).exp()
    actual, facts = ours(folder, **options)
    logits, _ = ours(folder, scale="logit", **options)

    assert chances.tolist() == pytest.approx(actual, abs=1e-5)
    assert chances.logit().tolist() == pytest.approx(logits, rel=1e-5, abs=1e-4)
    assert max(logits) - min(logits) > 0.3, "scores that hardly differ prove nothing"
    assert ("language model", "torch", words[0], words[1]) == tuple(
        facts[name] for name in ("method", "engine", "true_token", "false_token")
    )
    assert "batches" not in facts, "several texts at once"


def test_one_batch_holds_several_texts(encoder_decoder: Callable[[str], Path]) -> None:
    folder = encoder_decoder("t5")
    one, _ = ours(folder, batch_tokens=1)
    many, _ = ours(folder, batch_tokens=100_000)

    assert one == pytest.approx(many, abs=1e-6)


def test_a_long_document_loses_its_end_and_no_part_of_the_prompt(
    encoder_decoder: Callable[[str], Path],
) -> None:
    with LocalBackend(
        encoder_decoder("t5"),
        template="monot5",
        device="cpu",
        max_length=64,
        long_documents="truncate",
    ) as backend:
        scores = backend.score(QUERY, ["panda " * 300, "panda " * 400])

    assert [0, 1] == list(scores.truncated)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_bfloat16_keeps_the_head_in_float32(encoder_decoder: Callable[[str], Path]) -> None:
    whole, _ = ours(encoder_decoder("t5"), scale="logit")
    half, facts = ours(encoder_decoder("t5"), scale="logit", dtype="bfloat16")

    assert "bfloat16" == facts["dtype"]
    assert half == pytest.approx(whole, abs=0.2)
    assert any(torch.tensor(each).bfloat16().item() != each for each in half)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_small_weights(dtype: str, encoder_decoder: Callable[[str], Path]) -> None:
    """The second product of T5's layers stays whole, whose dtype its own code looks at."""
    if dtype == "int4" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("needs the extra `bitsandbytes`")
    whole, _ = ours(encoder_decoder("t5"), scale="logit")
    small, facts = ours(encoder_decoder("t5"), scale="logit", dtype=dtype)

    assert small == pytest.approx(whole, abs={"int8": 0.15, "int4": 2.0}[dtype])
    assert f"{dtype}-float32" == facts["dtype"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": None}, r"name no answer tokens; set `template` to one of \[.*'monot5'"),
        ({"template": None, "true_token": "▁true"}, "no prompt for a pair of texts"),
        ({"engine": "onnx"}, "language model or uses a prompt, which only the torch engine"),
        ({"attention": "packed"}, "can't be scored without padding"),
        ({"true_token": "panda bear"}, "must be one token"),
    ],
)
def test_what_does_not_fit_is_an_error(
    options: dict[str, object], message: str, encoder_decoder: Callable[[str], Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(encoder_decoder("t5"), **options)


def test_an_instruction_needs_a_place(encoder_decoder: Callable[[str], Path]) -> None:
    with (
        LocalBackend(encoder_decoder("t5"), template="monot5", device="cpu") as backend,
        pytest.raises(UnsupportedInputError, match="no prompt that takes one"),
    ):
        backend.score(Query(QUERY, instruction="Find manuals"), DOCUMENTS)


def test_no_token_to_start_with_is_told(
    encoder_decoder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(encoder_decoder("t5"), tmp_path / "model"))
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        values["decoder_start_token_id"] = None
        (folder / name).write_text(json.dumps(values))

    with pytest.raises(ConfigError, match="no decoder_start_token_id"):
        ours(folder)
