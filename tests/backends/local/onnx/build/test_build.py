"""Our graphs against transformers: every architecture, every length, both outputs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

import onnxruntime
import torch
import transformers
from safetensors.numpy import load_file, save_file

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.onnx.build.architectures import MODEL_TYPES, read_encoder
from rerank_plugins.backends.local.onnx.build.build import build_encoder, build_graph
from rerank_plugins.backends.local.onnx.build.verify import Sample, with_peaks
from rerank_plugins.errors import ConfigError

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 1,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
LOCAL = {**SMALL, "max_position_embeddings": 512, "cls_token_id": 2, "sep_token_id": 3}
CASES = {
    "bert": ("Bert", SMALL),
    "bert, relu": ("Bert", {**SMALL, "hidden_act": "relu"}),
    "bert, tanh gelu": ("Bert", {**SMALL, "hidden_act": "gelu_new"}),
    "bert, silu": ("Bert", {**SMALL, "hidden_act": "silu"}),
    "camembert": ("Camembert", {**SMALL, "max_position_embeddings": 514}),
    "electra": ("Electra", {**SMALL, "embedding_size": 32}),
    "electra, no projection": ("Electra", {**SMALL, "embedding_size": 64}),
    "gte": ("Gte", SMALL),
    "gte, longer steps": (
        "Gte",
        {
            **SMALL,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 1.0671},
        },
    ),
    "gte, no token types": ("Gte", {**SMALL, "type_vocab_size": 0}),
    "gte, two token types": ("Gte", {**SMALL, "type_vocab_size": 2}),
    "modernbert, cls, last layer global": ("ModernBert", {**LOCAL, "local_attention": 128}),
    "modernbert, cls, last layer local": (
        "ModernBert",
        {**LOCAL, "num_hidden_layers": 5, "local_attention": 16},
    ),
    "modernbert, mean": (
        "ModernBert",
        {**LOCAL, "local_attention": 32, "classifier_pooling": "mean"},
    ),
    "modernbert, biases": (
        "ModernBert",
        {**LOCAL, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
    "roberta": ("Roberta", {**SMALL, "max_position_embeddings": 514}),
    "xlm-roberta": ("XLMRoberta", {**SMALL, "max_position_embeddings": 514, "type_vocab_size": 1}),
}
if not hasattr(transformers, "GteConfig"):  # transformers 5.23 and later
    CASES = {name: case for name, case in CASES.items() if case[0] != "Gte"}
LENGTHS = (2, 3, 9, 17, 33, 65, 66, 130, 311, 512)


def make_model(name, options):
    cls = getattr(transformers, f"{name}ForSequenceClassification")
    model = cls(cls.config_class(**options)).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * 0.15 if weight.ndim > 1 else 0.7 + noise * 0.3)
    return model


def sequences(types):
    random = np.random.default_rng(11)
    for length in LENGTHS:
        ids = random.integers(300, size=(2, length))
        yield ids, np.broadcast_to(np.arange(length) > length // 2, ids.shape) % max(types, 1)


def run(session, output, ids, types):
    feeds = {"input_ids": ids, "token_type_ids": types}
    names = [i.name for i in session.get_inputs()]
    (value,) = session.run([output], {name: feeds[name].astype(np.int32) for name in names})
    return value


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    name, options = CASES[request.param]
    model = make_model(name, options)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return model, folder


def expected_of(model, ids, types):
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(ids.shape)}
    if "type_vocab_size" in model.config.to_dict():
        inputs["token_type_ids"] = torch.tensor(types)
    with torch.inference_mode():
        return model(**inputs).logits.numpy(), model.base_model(**inputs)[0].numpy()


def test_logits_and_tokens_equal_transformers(case):
    """In float32, whatever the length; padding tokens inside the text included."""
    model, folder = case
    logits = open_session(build_encoder(folder))
    tokens = open_session(build_encoder(folder, output="tokens"))
    seen = []
    for ids, types in sequences(getattr(model.config, "type_vocab_size", 1)):
        expected, vectors = expected_of(model, ids, types)
        seen.append(expected)

        assert np.abs(run(logits, "logits", ids, types) - expected).max() < 1e-5
        assert np.abs(run(tokens, "tokens", ids, types) - vectors).max() < 1e-4
    assert np.ptp(np.concatenate(seen)) > 1e-3, "logits that don't differ prove nothing"


def test_int8_stays_close_and_is_smaller(case):
    model, folder = case
    small, large = build_encoder(folder, dtype="int8"), build_encoder(folder)
    encoder = read_encoder(folder)
    encoder = with_peaks(encoder, Sample.draw(encoder, encoder.head, longest=512))
    shared_out = build_graph(encoder, dtype="int8", embeddings="int8").to_bytes()
    for session in map(open_session, (small, shared_out)):
        for ids, types in sequences(getattr(model.config, "type_vocab_size", 1)):
            pooled = run(session, "pooled", ids, types)
            _, vectors = expected_of(model, ids, types)
            if getattr(model.config, "classifier_pooling", "cls") == "mean":
                expected = vectors.mean(axis=1)
            else:
                expected = vectors[:, 0]

            error = np.linalg.norm(pooled - expected) / np.linalg.norm(expected)

            assert 0 < error < 0.15
    assert len(small) < len(shared_out) < len(large)


def test_int4_equals_float32_on_weights_of_4_bits(case):
    """Only matrices are rounded; what they are multiplied with is not."""
    model, folder = case
    encoder = read_encoder(folder)
    layers = tuple(
        replace(
            layer,
            **{
                name: replace(linear, weight=rounded_to_blocks(linear.weight))
                for name in ("attention_in", "attention_out", "feed_in", "feed_out")
                for linear in [getattr(layer, name)]
            },
        )
        for layer in encoder.layers
    )
    rounded = build_graph(replace(encoder, layers=layers), output="tokens").to_bytes()
    small = build_encoder(folder, output="tokens", dtype="int4")
    sessions = open_session(small), open_session(rounded)
    for ids, types in sequences(getattr(model.config, "type_vocab_size", 1)):
        actual, expected = (run(session, "tokens", ids, types) for session in sessions)

        assert np.abs(actual - expected).max() < 1e-4
    assert len(small) < len(rounded)


def rounded_to_blocks(weights):
    """By the definition of Q4_0, block by block."""
    out = np.zeros_like(weights)
    for row, start in itertools.product(range(len(weights)), range(0, weights.shape[1], 32)):
        block = weights[row, start : start + 32]
        scale = block[np.abs(block).argmax()] / np.float32(-8)
        out[row, start : start + 32] = np.clip(np.rint(block / scale), -8, 7) * scale
    return out


def test_half_precision_checkpoints_score_in_float32(tmp_path: Path):
    """float16 and bfloat16 weights are read exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        model = make_model("Bert", SMALL).to(dtype)
        model.save_pretrained(tmp_path)
        ids, types = np.arange(24).reshape(1, 24), np.zeros((1, 24), int)
        expected, _ = expected_of(model.float(), ids, types)

        actual = run(open_session(build_encoder(tmp_path)), "logits", ids, types)

        assert np.abs(actual - expected).max() < 1e-5


def test_shards_are_read(tmp_path: Path):
    model = make_model("Bert", SMALL)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")

    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    assert build_encoder(tmp_path / "one") == build_encoder(tmp_path / "many")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "deberta-v2"}, "deberta-v2"),
        ({"hidden_act": "mish"}, "mish"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_hidden_layers": 9}, "encoder.layer.4"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
    ],
)
def test_an_unsupported_architecture_is_refused(changed, message, tmp_path: Path):
    """By name, so that another engine can take over."""
    make_model("Bert", SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | changed
    path.write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )

    with pytest.raises(UnsupportedByEngine, match=message):
        build_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Bert", SMALL),
        ("Electra", SMALL),
        ("Roberta", SMALL),
        ("ModernBert", SMALL),
        (
            "ModernBert",
            SMALL
            | dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
        ),
    ],
    ids=["bert", "electra", "roberta", "modernbert", "modernbert with biases"],
)
def test_no_weight_may_be_missing(name, config, tmp_path: Path):
    """Least of all a bias, which would silently be zero."""
    make_model(name, config).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert build_encoder(tmp_path)
    for missing in weights:
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, file)
        with pytest.raises(UnsupportedByEngine, match=f"{missing}|no classification head"):
            build_encoder(tmp_path)


def test_an_encoder_without_a_head_gives_tokens_only(tmp_path: Path):
    make_model("Bert", SMALL).base_model.save_pretrained(tmp_path)

    assert build_encoder(tmp_path, output="tokens")
    with pytest.raises(UnsupportedByEngine, match="no classification head"):
        build_encoder(tmp_path)


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        build_encoder(tmp_path)


def test_every_known_model_type_is_tested():
    assert set(MODEL_TYPES) == {name.partition(",")[0] for name in CASES}
