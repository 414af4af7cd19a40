"""Other rerankers beside ours, on the same model: the same order, and the scores the page tells.

The rows of docs/coming-from.md: a library that can be installed beside ours runs; one that can't is
replayed, with the steps of its source.
"""

import gc
import json
import logging
import math
import shutil
import sys
import types
import warnings

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins import rerank
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend
from tests.support.serving import listening

QUERY = "what is a panda?"
DOCUMENTS = [
    "hi",
    "The giant panda is a bear species endemic to China.",
    "Paris is the capital of France.",
    "大熊猫是中国特有的熊科动物。",
    "Retrieval finds candidates quickly; reranking puts the best of them first.",
    "A cross-encoder reads the query and the document together.",
]
PAIRS = [(QUERY, text) for text in DOCUMENTS]
KEY = "a-key-for-tests-0123456789"

pytestmark = [
    pytest.mark.slow,
    # What the packages of others warn of, or leave open, is theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]


def equal(scores):
    return pytest.approx(list(scores), abs=1e-5)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def best_first(scores):
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def documents():
    return [Document(text, id=str(place)) for place, text in enumerate(DOCUMENTS)]


def nodes():
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint("bert")


@pytest.fixture(scope="module")
def ours(model):
    """Scores of this package, in the documents' order: logits and probabilities."""
    return {
        scale: list(rerank(QUERY, DOCUMENTS, backend=f"local:{model}?scale={scale}").scores)
        for scale in ("logit", "probability")
    }


class TestCrossEncoder:
    def test_predict_gives_our_probabilities(self, model, ours):
        scores = CrossEncoder(model, device="cpu").predict(PAIRS)

        assert equal(scores) == ours["probability"]

    def test_a_checkpoint_that_asks_for_raw_scores_gives_our_logits(self, model, ours, tmp_path):
        """As those of MS MARCO do."""
        raw = tmp_path / "raw"
        shutil.copytree(model, raw)
        config = json.loads((raw / "config.json").read_text())
        config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
        (raw / "config.json").write_text(json.dumps(config))
        scores = CrossEncoder(str(raw), device="cpu").predict(PAIRS)

        assert equal(scores) == ours["logit"]
        assert equal(map(sigmoid, scores)) == ours["probability"]
        assert ours["probability"] == equal(rerank(QUERY, DOCUMENTS, backend=f"local:{raw}").scores)

    def test_rank_is_rerank(self, model):
        theirs = CrossEncoder(model, device="cpu").rank(QUERY, DOCUMENTS, top_k=3)
        result = rerank(QUERY, DOCUMENTS, backend=f"local:{model}", top_n=3)

        assert [row["corpus_id"] for row in theirs] == [item.index for item in result]
        assert equal(row["score"] for row in theirs) == [item.score for item in result]

    def test_max_length_cuts_alike(self, model):
        texts = ["bamboo " * 200 + "panda", "panda " * 200]
        scores = CrossEncoder(model, device="cpu", max_length=32).predict(
            [(QUERY, t) for t in texts]
        )
        result = rerank(
            QUERY, texts, backend=f"local:{model}?max_length=32&long_documents=truncate"
        )

        assert equal(scores) == list(result.scores)
        assert (0, 1) == tuple(result.scores.truncated)


class TestFlagReranker:
    """Replayed: FlagEmbedding 1.4.2 can't be imported beside transformers 5.24."""

    @staticmethod
    def compute_score(model, pairs, *, max_length=512, normalize=False):
        """The steps of FlagEmbedding's `encoder_only.base`, for one pair at a time."""
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForSequenceClassification.from_pretrained(model).eval()
        scores = []
        for query, passage in pairs:
            ids = [
                tokenizer(text, add_special_tokens=False, max_length=most, truncation=True)[
                    "input_ids"
                ]
                for text, most in ((query, max_length * 3 // 4), (passage, max_length))
            ]
            room = max_length - len(ids[0]) - tokenizer.num_special_tokens_to_add(pair=True)
            cut = tokenizer.decode(ids[1][:room])  # truncation="only_second"
            item = tokenizer(query, cut, return_tensors="pt")
            with torch.inference_mode():
                scores.append(network(**item, return_dict=True).logits.view(-1).float().item())
        return [sigmoid(score) for score in scores] if normalize else scores

    @pytest.mark.parametrize(("normalize", "scale"), [(False, "logit"), (True, "probability")])
    def test_compute_score(self, model, ours, normalize, scale):
        assert equal(self.compute_score(model, PAIRS, normalize=normalize)) == ours[scale]

    def test_the_postprocessor_of_llama_index(self, model, ours, monkeypatch):
        """The class of LlamaIndex itself, with the steps above in place of its model."""
        base = pytest.importorskip("llama_index.postprocessor.flag_embedding_reranker.base")

        class FlagReranker:
            def __init__(self, name, *, use_fp16):
                self.name = name

            def compute_score(self, pairs):
                return TestFlagReranker.compute_score(self.name, pairs)

        stub = types.ModuleType("FlagEmbedding")
        stub.FlagReranker = FlagReranker
        monkeypatch.setitem(sys.modules, "FlagEmbedding", stub)
        theirs = base.FlagEmbeddingReranker(model=model, top_n=3)
        kept = theirs.postprocess_nodes(nodes(), query_str=QUERY)
        same = RerankPostprocessor(backend=f"local:{model}?scale=logit", top_n=3)

        assert_same_nodes(kept, same)


class TestRerankers:
    @pytest.fixture(autouse=True)
    def package(self):
        self.rerankers = pytest.importorskip("rerankers")

    def test_the_cross_encoder_gives_our_logits(self, model, ours):
        ranker = self.rerankers.Reranker(
            model, model_type="cross-encoder", device="cpu", dtype="fp32", verbose=0
        )
        ranked = ranker.rank(query=QUERY, docs=DOCUMENTS)

        assert [each.doc_id for each in ranked.results] == best_first(ours["logit"])
        assert equal(each.score for each in ranked.results) == sorted(ours["logit"], reverse=True)


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    """The model as the ONNX file and the folder that FlashRank and fastembed download."""
    folder = tmp_path_factory.mktemp("flashrank") / "ms-marco-MiniLM-L-12-v2"
    shutil.copytree(model, folder)
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    inputs = tokenizer([["a", "b c"], ["d", "e"]], return_tensors="pt", padding=True)
    axes = {name: {0: "batch", 1: "length"} for name in names}
    file = folder / "flashrank-MiniLM-L-12-v2_Q.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(inputs[name] for name in names),
            file,
            input_names=names,
            output_names=["logits"],
            dynamic_axes=axes,
            dynamo=False,
        )
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": tokenizer.pad_token, "sep_token": tokenizer.sep_token})
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 128
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return file


class TestFlashRank:
    @pytest.fixture(autouse=True)
    def package(self):
        self.flashrank = pytest.importorskip("flashrank")
        handlers = [*logging.root.handlers]
        level = logging.root.level
        yield
        logging.root.handlers[:] = handlers  # its constructor calls `logging.basicConfig`
        logging.root.setLevel(level)

    def ranker(self, graph):
        return self.flashrank.Ranker(graph.parent.name, cache_dir=str(graph.parents[1]))

    def test_ranker_gives_our_probabilities(self, graph, ours):
        passages = [{"id": place, "text": text} for place, text in enumerate(DOCUMENTS)]
        request = self.flashrank.RerankRequest(query=QUERY, passages=passages)
        ranked = self.ranker(graph).rerank(request)

        assert [each["id"] for each in ranked] == best_first(ours["probability"])
        assert equal(each["score"] for each in ranked) == sorted(ours["probability"], reverse=True)

    def test_the_compressor_of_langchain(self, graph, model):
        compressors = pytest.importorskip("langchain_community.document_compressors")
        theirs = compressors.FlashrankRerank(
            client=self.ranker(graph), top_n=3, score_threshold=0.2
        ).compress_documents(documents(), QUERY)
        same = RerankCompressor(f"local:{model}", top_n=3, min_score=0.2)

        assert 0 < len(theirs)
        assert_same_documents(theirs, same)
        assert [None] * len(theirs) == [each.id for each in theirs]  # lost there, kept here


class TestFastEmbed:
    """Replayed: fastembed 0.9.1 needs a huggingface-hub before 2."""

    def test_rerank_gives_our_logits(self, graph, ours):
        """The steps of `fastembed.rerank.cross_encoder.onnx_text_model`."""
        runtime = pytest.importorskip("onnxruntime")
        tokenizers = pytest.importorskip("tokenizers")
        tokenizer = tokenizers.Tokenizer.from_file(str(graph.parent / "tokenizer.json"))
        tokenizer.enable_padding()
        encoded = tokenizer.encode_batch(PAIRS)
        session = runtime.InferenceSession(str(graph))
        feeds = {
            "input_ids": [each.ids for each in encoded],
            "token_type_ids": [each.type_ids for each in encoded],
            "attention_mask": [each.attention_mask for each in encoded],
        }

        assert equal(session.run(["logits"], feeds)[0][:, 0]) == ours["logit"]


def test_the_cross_encoder_reranker_of_langchain(model, ours):
    """It returns the order, and throws the scores away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoders = pytest.importorskip("langchain_community.cross_encoders")
        compressors = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    encoder = encoders.HuggingFaceCrossEncoder(model_name=model, model_kwargs={"device": "cpu"})
    theirs = compressors.CrossEncoderReranker(model=encoder, top_n=3)
    kept = theirs.compress_documents(documents(), QUERY)
    same = RerankCompressor(f"local:{model}", top_n=3).compress_documents(documents(), QUERY)

    assert equal(encoder.score(PAIRS)) == ours["probability"]
    assert [each.id for each in kept] == [each.id for each in same]
    assert not any(each.metadata for each in kept)
    top = sorted(ours["probability"], reverse=True)[:3]
    assert equal(top) == [each.metadata["relevance_score"] for each in same]


@pytest.mark.parametrize(
    "module", ["llama_index.postprocessor.sbert_rerank", "llama_index.core.postprocessor"]
)
def test_sentence_transformer_rerank_of_llama_index(module, model):
    package = pytest.importorskip(module)
    theirs = package.SentenceTransformerRerank(model=model, top_n=3, device="cpu")

    kept = theirs.postprocess_nodes(nodes(), query_str=QUERY)
    assert_same_nodes(kept, RerankPostprocessor(backend=f"local:{model}", top_n=3))


def assert_same_documents(theirs, same):
    own = same.compress_documents(documents(), QUERY)
    assert [each.page_content for each in theirs] == [each.page_content for each in own]
    scores = [each.metadata["relevance_score"] for each in theirs]
    assert equal(scores) == [each.metadata["relevance_score"] for each in own]


def assert_same_nodes(theirs, same):
    own = same.postprocess_nodes(nodes(), query_str=QUERY)
    assert [each.text for each in theirs] == [each.text for each in own]
    assert equal(each.score for each in theirs) == [each.score for each in own]


class TestServers:
    """Their clients and ours ask the same server."""

    @pytest.fixture(scope="class")
    def url(self):
        with listening(FakeBackend(), model_names=("fake",)) as url:
            yield url

    @pytest.fixture(autouse=True)
    def keys(self, monkeypatch):
        for name in ("COHERE", "JINA"):
            monkeypatch.setenv(f"{name}_API_KEY", KEY)
        yield
        gc.collect()  # what clients leave open goes within the test that they are in

    def test_cohere_of_langchain(self, url):
        theirs = pytest.importorskip("langchain_cohere").CohereRerank(
            base_url=url, model="fake", top_n=3
        )
        same = RerankCompressor(f"cohere+{url}?model=fake", top_n=3)

        assert_same_documents(theirs.compress_documents(documents(), QUERY), same)

    def test_jina_of_langchain(self, url, monkeypatch):
        """Its address is a constant."""
        module = pytest.importorskip("langchain_community.document_compressors.jina_rerank")
        monkeypatch.setattr(module, "JINA_API_URL", f"{url}/v1/rerank")
        theirs = module.JinaRerank(model="fake", top_n=3)
        same = RerankCompressor(f"jina+{url}?model=fake", top_n=3)

        assert_same_documents(theirs.compress_documents(documents(), QUERY), same)

    def test_cohere_of_llama_index(self, url):
        package = pytest.importorskip("llama_index.postprocessor.cohere_rerank")
        theirs = package.CohereRerank(base_url=url, model="fake", top_n=3)
        same = RerankPostprocessor(backend=f"cohere+{url}?model=fake", top_n=3)

        assert_same_nodes(theirs.postprocess_nodes(nodes(), query_str=QUERY), same)

    def test_xinference_of_llama_index(self, url):
        package = pytest.importorskip("llama_index.postprocessor.xinference_rerank")
        theirs = package.XinferenceRerank(base_url=url, model="fake", top_n=3)
        same = RerankPostprocessor(backend=f"xinference+{url}?model=fake", top_n=3)

        assert_same_nodes(theirs.postprocess_nodes(nodes(), query_str=QUERY), same)

    def test_tei_of_llama_index(self, url):
        package = pytest.importorskip("llama_index.postprocessor.tei_rerank")
        theirs = package.TextEmbeddingInference(base_url=url, top_n=3)
        same = RerankPostprocessor(backend=f"tei+{url}", top_n=3)

        assert_same_nodes(theirs.postprocess_nodes(nodes(), query_str=QUERY), same)
