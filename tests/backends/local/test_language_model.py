"""Language models that answer yes or no: equal to sentence-transformers, and clear when unsure."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

from rerank_plugins import ConfigError, Query, UnsupportedInputError
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.prompt_templates import TEMPLATES
from tests.support.checkpoints import CHAT_TEMPLATE, build_language_model
from tests.support.pairs import CUT

QUERIES = ["what is a panda?", "大熊猫"]
WORDS = [
    "panda",
    "bear",
    "China",
    "Paris",
    "大熊猫",
    "(2024)",
    "\n",
    "the",
    "a",
    "<|im_end|>",
    "yes",
    "no",
    ".",
    ",",
]


def documents(seed: int, count: int = 7, longest: int = 200) -> list[str]:
    """Documents: empty, short, and longer than the model reads."""
    drawn = random.Random(seed)
    lengths = [0, 1, longest, *(int(longest ** drawn.random()) for _ in range(count - 3))]
    return [" ".join(drawn.choices(WORDS, k=length)) for length in lengths]


REQUESTS = [(query, documents(seed)) for seed, query in enumerate(QUERIES)]
PAIRS = [(query, document) for query, found in REQUESTS for document in found]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Give the folder of a tiny language model, built once."""
    built: dict[str, str] = {}

    def folder(kind: str, **options: Any) -> str:
        key = json.dumps([kind, options])
        if key not in built:
            path = build_language_model(kind, tmp_path_factory.mktemp(kind), **options)
            built[key] = str(path)
        return built[key]

    return folder


def ours(folder: str, **options: Any) -> list[float]:
    backend = LocalBackend(
        folder, **{"engine": "torch", "device": "cpu", "scale": "logit", **CUT, **options}
    )
    with backend:
        return [score for scores in backend.score_many(REQUESTS) for score in scores]


def reference(folder: str, *, max_length: int = 512, **options: Any) -> list[float]:
    """Score pair by pair: padding at the left moves positions, which costs it float32 digits."""
    model = CrossEncoder(folder, device="cpu", **options)
    model.max_seq_length = max_length
    scores = model.predict(PAIRS, activation_fn=torch.nn.Identity(), batch_size=1)
    return [float(score) for score in scores]


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize(
    "kind",
    [
        "qwen3",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gemma", "llama", "qwen2")),
    ],
)
def test_scores_equal_sentence_transformers(
    kind: str, attention: str, language_model: Callable[..., str]
) -> None:
    """Also where documents are cut: what follows them in the template never is."""
    folder = language_model(kind)
    for max_length in (128, 512):
        expected = reference(folder, max_length=max_length)
        scores = ours(folder, attention=attention, max_length=max_length)

        assert max(expected) - min(expected) > 0.5, "scores that hardly differ prove nothing"
        assert expected == pytest.approx(scores, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": ("Yes", None)},
        {"tokens": ("1", "0"), "prompt": "Find contradictions."},
        {"template": None, "prompt": "query: "},
        {"template": None},
    ],
)
def test_chains_of_modules_are_read(
    options: dict[str, Any], language_model: Callable[..., str]
) -> None:
    """One token or two, a default prompt, a template or none."""
    folder = language_model("qwen3", **options)
    expected = reference(folder)

    assert expected == pytest.approx(ours(folder), rel=1e-5, abs=1e-5)


def test_an_instruction_takes_the_place_of_the_default(language_model: Callable[..., str]) -> None:
    folder = language_model("qwen3", prompt="Find contradictions.")
    expected = CrossEncoder(folder, device="cpu").predict(
        PAIRS, activation_fn=torch.nn.Identity(), prompt="Find similar things.", batch_size=1
    )
    scores = ours(folder, instruction="Find similar things.")

    assert expected.tolist() == pytest.approx(scores, rel=1e-5, abs=1e-5)
    assert scores != pytest.approx(ours(folder), abs=1e-3)


def test_without_a_chain_of_modules_the_options_define_the_prompt(
    language_model: Callable[..., str],
) -> None:
    """A chat template with `true_token` and `false_token` is what a chain would be."""
    chained, bare = language_model("qwen3"), language_model("qwen3", chained=False)

    assert reference(chained) == pytest.approx(
        ours(bare, true_token="yes", false_token="no"), rel=1e-5, abs=1e-5
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_known_templates_give_the_scores_of_their_authors(
    name: str, language_model: Callable[..., str]
) -> None:
    """The whole prompt through transformers, the logits of all words, and two of them."""
    folder = language_model("qwen3", chained=False, template=None)
    known = TEMPLATES[name]
    model = CrossEncoder(folder, device="cpu").model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    for query, document in PAIRS[:12]:
        text = known.prompt.text or ""
        text = text.replace("{instruction}", known.prompt.instruction or "")
        text = text.replace("{query}", query).replace("{document}", document)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = model(ids[:, :1024]).logits[0, -1]
        words = [w for w in (known.answer_tokens.true, known.answer_tokens.false) if w is not None]
        values = [logits[tokenizer.vocab[word]].item() for word in words]
        expected.append(values[0] - sum(values[1:]) if len(text) < 1000 else None)
    scores = ours(folder, template=name, max_length=512)

    compared = [(e, f) for e, f in zip(expected, scores, strict=False) if e is not None]
    assert len(compared) > 3
    assert [e for e, _ in compared] == pytest.approx([f for _, f in compared], rel=1e-5, abs=1e-5)


def test_only_the_rows_of_the_answer_are_kept(language_model: Callable[..., str]) -> None:
    with LocalBackend(language_model("llama"), engine="torch", device="cpu") as backend:
        backend.score("q", ["d"])
        assert backend._loaded is not None
        model = backend._loaded.engine._replicas[0].forward.model

        assert 2 == model.lm_head.out_features


def test_a_prefix_is_computed_once_per_query(
    language_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer tokens reach the model, and the scores stay."""
    from rerank_plugins.backends.local.torch.packed import PackedForward  # noqa: PLC0415

    folder = language_model("qwen3")
    seen: list[int] = []
    real = PackedForward.pack

    def pack(packed: PackedForward, pairs: Any) -> Any:
        packed = real(packed, pairs)
        seen.append(len(packed.ids) / len(pairs.ids))
        return packed

    monkeypatch.setattr(PackedForward, "pack", pack)
    query, few = "what is a panda? " * 5, ["a bear", "no", "", "a city in France"]
    with LocalBackend(folder, engine="torch", device="cpu") as backend:
        together = backend.score(query, few)
        assert seen[-1] < 0.6
        assert "computed once per query" == backend.describe()["shared_prefix"]
        alone = [backend.score(query, [document])[0] for document in few]

    assert 1.0 == seen[-1]
    assert together == pytest.approx(alone, abs=1e-6)


def test_memory_that_runs_out_at_any_batch_loses_nothing(
    language_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a batch holds what its pairs share."""
    from rerank_plugins.backends.local.torch.packed import PackedForward  # noqa: PLC0415

    folder = language_model("qwen3")
    expected = ours(folder)
    real = PackedForward.__call__
    for failing in range(2):
        calls: list[int] = []

        def call(packed: PackedForward, pairs: Any, calls=calls, failing=failing) -> torch.Tensor:
            calls.append(len(pairs))
            if len(calls) == failing + 4:  # the first three are the checks of the model
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(packed, pairs)

        with monkeypatch.context() as patch:
            patch.setattr(PackedForward, "__call__", call)
            scores = ours(folder, batch_tokens=1200)

        assert len(calls) > failing + 4
        assert expected == pytest.approx(scores, rel=1e-5, abs=1e-5)


def test_a_long_query_is_truncated_and_logged_once(
    language_model: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves the document a quarter of the room; no text reaches the log."""
    with LocalBackend(
        language_model("qwen3"), engine="torch", device="cpu", max_length=128
    ) as backend:
        with caplog.at_level(logging.WARNING):
            first = backend.score("panda " * 300, ["bear", "Paris"])
            backend.score("panda " * 301, ["bear"])
        facts = backend.describe()

    assert 3 == facts["truncated_queries"]
    assert 1 == len([m for m in caplog.messages if "was cut to" in m])
    assert "panda" not in caplog.text
    assert first[0] != pytest.approx(first[1], abs=1e-6)


def edited(folder: str, to: Path, name: str, change: Callable[[Any], Any]) -> str:
    copy = Path(shutil.copytree(folder, to / "copy"))
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(change(content)))
    return str(copy)


@pytest.mark.parametrize(
    ("built", "options", "message"),
    [
        ({"chained": False}, {}, "name no answer tokens; set `template`"),
        ({"chained": False, "template": None}, {"true_token": "yes"}, "have no prompt for a pair"),
        ({"chained": False}, {"false_token": "no"}, "`false_token` needs a `true_token`"),
        ({}, {"template": "qwen3"}, "must be 'pair', one of .*'qwen3-reranker'"),
        ({}, {"template": "{document} {query}"}, "that holds {query} and then {document}"),
        ({}, {"template": "{query} {document}", "instruction": "x"}, "need each other"),
        ({"template": None}, {"instruction": "x"}, "no prompt that takes an `instruction`"),
        ({}, {"true_token": "relevant?"}, "must be one token .* and 'relevant\\?' is"),
        ({}, {"max_length": 16}, "leaves no room for text beside the .* tokens of the template"),
        (
            {"template": CHAT_TEMPLATE.replace('"document"', '"user"')},
            {},
            "leaves out the document, so it can't be used; set `template`",
        ),
        (
            {"template": CHAT_TEMPLATE.replace('"system"', '"tool"')},
            {"instruction": "x"},
            "leaves out the instruction",
        ),
        ({"template": "{{ raise_exception('no') }}"}, {}, "fails on a query and a document"),
    ],
)
def test_a_missing_or_unusable_template_or_token_is_an_error(
    built: dict[str, Any], options: dict[str, Any], message: str, language_model: Callable[..., str]
) -> None:
    """Never a default that may be wrong."""
    with pytest.raises(ConfigError, match=message):
        ours(language_model("qwen3", **built), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda modules: modules[:1], "contradicts its architectures"),
        (lambda modules: [*modules, modules[1]], "is a chain of .*LogitScore"),
        (lambda modules: [modules[0], {**modules[1], "path": "../x"}], "unexpected folders"),
        (lambda _: {}, "holds no JSON array"),
    ],
)
def test_unsupported_chains_of_modules_are_refused(
    change: Callable[[Any], Any], message: str, language_model: Callable[..., str], tmp_path: Path
) -> None:
    folder = edited(language_model("qwen3"), tmp_path, "modules.json", change)
    with pytest.raises(ConfigError, match=message):
        ours(folder)


def test_other_answer_tokens_change_scores_and_name(
    language_model: Callable[..., str], tmp_path: Path
) -> None:
    """It scores and is called otherwise; so does another instruction."""

    def name(folder: str, **options: Any) -> str:
        return LocalBackend(folder, engine="torch", device="cpu", **options).name

    folder = language_model("qwen3")
    score = next(Path(folder).glob("*_LogitScore")).name
    other = edited(folder, tmp_path, f"{score}/config.json", lambda c: {**c, "true_token_id": 7})
    renamed = str(Path(other).rename(tmp_path / Path(folder).name))
    names = [name(folder), name(renamed), name(folder, instruction="Find it.")]

    assert 3 == len(set(names))
    assert "Find" not in names[2]


def test_the_onnx_engine_refuses_it(language_model: Callable[..., str]) -> None:
    folder = language_model("qwen3")
    with pytest.raises(ConfigError, match="only the torch engine"):
        ours(folder, engine="onnx")
    with LocalBackend(folder, device="cpu") as backend:
        assert "torch" == backend.describe()["engine"]


def test_a_classifier_takes_a_template_too(checkpoint: Callable[[str], str]) -> None:
    """As sequence classifiers made of Qwen3-Reranker need; answers in words it has none."""
    folder = checkpoint("qwen3")
    text = "<Query>: {query} <Document>: {document} <end>"
    scored = ours(folder, template=text)
    model = CrossEncoder(folder, device="cpu")
    prompts = [text.replace("{query}", q).replace("{document}", d) for q, d in PAIRS[:4]]
    ids = [model.tokenizer(p, add_special_tokens=False, return_tensors="pt") for p in prompts]
    with torch.inference_mode():
        expected = [model.model(**row).logits.item() for row in ids if row.input_ids.shape[1] < 500]

    assert expected[:2] == pytest.approx(scored[:2], rel=1e-5, abs=1e-5)
    with pytest.raises(ConfigError, match="is a classifier"):
        ours(folder, true_token="yes")


@pytest.mark.parametrize("options", [{}, {"template": "mxbai-rerank-v2"}], ids=str)
def test_an_instruction_of_the_query_replaces_the_backends(
    language_model: Callable[..., str], options: dict[str, Any]
) -> None:
    """As if the backend had it; calls with other instructions share a batch."""
    folder = language_model("qwen3")
    instruction, others = "Find what contradicts.", documents(5, 4)
    expected = {
        None: LocalBackend(folder, engine="torch", device="cpu", **options),
        instruction: LocalBackend(
            folder, engine="torch", device="cpu", instruction=instruction, **options
        ),
    }
    with expected[None] as backend:
        requests = [
            (Query("panda", instruction=instruction), others),
            ("panda", others),
        ]
        instructed, plain = backend.score_many(requests)
        asynchronous = asyncio.run(backend.ascore(*requests[0]))

    assert expected[instruction].score("panda", others) == pytest.approx(instructed, abs=1e-6)
    assert expected[None].score("panda", others) == pytest.approx(plain, abs=1e-6)
    assert instructed == pytest.approx(asynchronous, abs=1e-6)
    assert instructed != pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(
    ("built", "options", "message"),
    [
        ({"template": CHAT_TEMPLATE.replace('"system"', '"tool"')}, {}, "leaves out the instruc"),
        ({}, {"template": "{query} {document}"}, "has no prompt that takes one"),
        ({}, {"max_length": 96}, "can't be used: `max_length` is 96, which leaves no room"),
    ],
)
def test_an_instruction_that_can_not_be_used_is_refused(
    language_model: Callable[..., str], built: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with LocalBackend(
        language_model("qwen3", **built), engine="torch", device="cpu", **options
    ) as backend:
        with pytest.raises(UnsupportedInputError, match=message):
            backend.score(Query("panda", instruction="Find what contradicts. " * 20), ["bear"])
        assert 1 == len(backend.score("panda", ["bear"]))


def test_scores_tell_which_prompts_were_cut(language_model: Callable[..., str]) -> None:
    with LocalBackend(
        language_model("qwen3"), engine="torch", device="cpu", max_length=96, **CUT
    ) as backend:
        of_documents = backend.score("panda", ["bear", "bear " * 200, "bear"])
        of_queries = backend.score("panda " * 200, ["bear", "Paris"])

    assert {1} == of_documents.truncated
    assert {0, 1} == of_queries.truncated
    assert of_documents.usage is not None
    assert 96 < (of_documents.usage.tokens or 0) < 2 * 96


@pytest.mark.parametrize("words", [440, 446, 448, 450, 452])
def test_a_long_instruction_is_not_read_with_each_token_of_a_document(
    words: int, language_model: Callable[..., str]
) -> None:
    folder = language_model("qwen3")
    query, document = Query("panda", instruction="a " * words), "panda " * 100
    with LocalBackend(folder, engine="torch", device="cpu", max_length=512) as backend:
        scores = backend.score(query, [document, "panda " * 1000])
        short = backend.score("panda", [document])

    assert short.windows == {}
    assert scores.windows.get(0, 1) <= 2
    assert scores.windows.get(1, 1) <= 16
    assert scores.usage is not None
    assert (scores.usage.tokens or 0) <= 18 * 512
    assert scores.truncated == {0, 1}
    assert max(scores.read.values()) < 0.9
