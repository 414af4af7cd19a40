"""Models whose `config.json` names code of their own, which transformers no longer needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

import transformers
from safetensors.numpy import load_file, save_file

from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.backends.local.native_config import native_config
from rerank_plugins.backends.local.onnx.build.architectures import read_encoder
from rerank_plugins.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "GteConfig"), reason="transformers has had GTE since 5.23"
)

AUTO_MAP = {
    "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
    "AutoModelForSequenceClassification": (
        "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification"
    ),
}
QUERY, DOCUMENTS = "what is a panda?", ["hi", "The giant panda is a bear.", "大熊猫 " * 200]


@pytest.fixture
def published(checkpoint, tmp_path):
    """A reranker as gte-multilingual-reranker-base is published, and as transformers saves it."""
    native, folder = Path(checkpoint("gte")), tmp_path / "published"
    folder.mkdir()
    for file in native.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(native / "model.safetensors")
    renamed = {name.replace("gte.", "new.", 1): array for name, array in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((native / "config.json").read_text())
    config.pop("rope_parameters")
    config |= {
        "model_type": "new",
        "architectures": ["NewForSequenceClassification"],
        "auto_map": AUTO_MAP,
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "pack_qkv": True,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": 8.0, "type": "ntk"},
        "rope_theta": 20000,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_published_gte_scores_as_transformers_own(published, engine, tmp_path):
    model = transformers.GteForSequenceClassification.from_pretrained(
        published,
        config=transformers.GteConfig(
            **{
                **transformers.AutoConfig.for_model("gte", **_small(published)).to_dict(),
                "rope_parameters": {
                    "rope_type": "linear",
                    "rope_theta": 160_000.0,
                    "factor": 8 ** (2 / 16),
                },
            }
        ),
    )
    model.save_pretrained(tmp_path / "native")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "native" / name).write_bytes((published / name).read_bytes())
    scores = [
        LocalBackend(str(folder), engine=engine, device="cpu", dtype="float32").score(
            QUERY, DOCUMENTS
        )
        for folder in (published, tmp_path / "native")
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    assert len({round(score, 6) for score in scores[0]}) == len(DOCUMENTS)


def test_static_ntk_scaling_turns_as_its_authors_wrote_it(published):
    rotary = read_encoder(published).layers[0].rotary
    base, factor, size = 20_000.0, 8.0, 16
    frequencies = (base * factor) ** (-np.arange(0, size, 2) / size) / factor ** (2 / size)
    expected = np.outer(np.arange(50), frequencies)
    np.testing.assert_allclose(rotary.angles(50, size), expected, rtol=1e-5)


def test_without_scaling_the_base_stays(published):
    _change(published, rope_scaling=None, rope_theta=10_000)
    rotary = read_encoder(published).layers[0].rotary
    assert (rotary.theta, rotary.factor) == (10_000, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}},
        {"rope_scaling": {"type": "dynamic", "factor": 8.0}},
        {"logn_attention_scale": True},
        {"logn_attention_clip1": True},
        {"layer_norm_type": "rms_norm"},
        {"position_embedding_type": "absolute"},
    ],
)
def test_what_transformers_does_otherwise_needs_the_models_own_code(published, changes):
    _change(published, **changes)
    with pytest.raises(ConfigError, match="brings Python code of its own"):
        LocalBackend(str(published), device="cpu").score(QUERY, DOCUMENTS)


def test_other_configurations_stay_as_they_are():
    for config in ({"model_type": "bert"}, {"model_type": "modernbert", "auto_map": AUTO_MAP}, {}):
        assert native_config(config) is config


def _small(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "config.json").read_text())
    names = (
        "hidden_size",
        "id2label",
        "intermediate_size",
        "label2id",
        "num_attention_heads",
        "num_hidden_layers",
        "pad_token_id",
        "vocab_size",
    )
    return {name: config[name] for name in names}


def _change(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
