"""From an encoder to the graph that runs fastest on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.onnx.build.architectures import read_encoder
from rerank_plugins.backends.local.onnx.build.encoder import Encoder
from rerank_plugins.backends.local.onnx.build.graph import Graph
from rerank_plugins.backends.local.onnx.build.layers import EmbeddingSource, LayerBuilder
from rerank_plugins.backends.local.onnx.build.linear import Precision

__all__ = ["Output", "build_encoder", "build_graph"]

Output: TypeAlias = Literal["logits", "tokens"]


def build_encoder(
    folder: Path,
    *,
    output: Output = "logits",
    dtype: Precision = "float32",
    max_length: int | None = None,
) -> bytes:
    """Build one self-contained ONNX file, up to 2 GB, from a checkpoint's folder.

    Its inputs are int32: `input_ids` (sequences x length) and, for models that have token
    types, `token_type_ids`. There is no mask: all sequences of one run are of equal length.

    Args:
        folder: holds `config.json` and `model.safetensors` (or its shards).
        output: `"logits"` gives `logits` (sequences x labels) and `pooled` (sequences x width),
            the vector the head reads; `"tokens"` gives `tokens` (sequences x length x width),
            the last layer's vectors.
        dtype: `"int8"` keeps matrices and word embeddings in 8 bits, with a scale per output or
            row, and quantises activations at run time; `"int4"` keeps matrices in 4 bits, with a
            scale per 32 numbers, and computes in float32. The head and norms stay float32.
        max_length: the most tokens in a sequence; None: as many as there are positions.

    Raises:
        UnsupportedByEngine: the architecture is unknown, or `"logits"` need a head that the
            checkpoint lacks.
        ConfigError: the files are missing or broken.
    """
    encoder = read_encoder(Path(folder))
    embeddings: EmbeddingSource = "float32" if dtype == "int4" else dtype
    graph = build_graph(
        encoder, output=output, dtype=dtype, embeddings=embeddings, max_length=max_length
    )
    return graph.to_bytes()


def build_graph(
    encoder: Encoder,
    *,
    output: Output = "logits",
    dtype: Precision = "float32",
    embeddings: EmbeddingSource = "float32",
    max_length: int | None = None,
    masked: bool = False,
) -> Graph:
    """Build the graph like `build_encoder`.

    Args:
        encoder: what is run.
        output: as in `build_encoder`; of a head that reads each token, `logits` and `pooled` have
            a row for each of them.
        dtype: as in `build_encoder`.
        embeddings: where the word embeddings are.
        max_length: as in `build_encoder`.
        masked: add the input `attended`, int64 [1]: how many tokens of a sequence, the first ones,
            the others see.
    """
    layers = LayerBuilder(
        encoder, dtype=dtype, embeddings=embeddings, max_length=max_length, masked=masked
    )
    graph = layers.graph
    x = layers.embed()
    if output == "tokens":
        for layer in encoder.layers:
            x = layers.layer(x, layer)
        tokens = layers.by_sequence(layers.norm(x, encoder.last_norm))
        graph.output(tokens, "tokens", ["sequences", "length", encoder.width])
        return graph
    head = encoder.head
    if head is None:
        raise UnsupportedByEngine("the checkpoint has no classification head to give logits")
    for layer in encoder.layers[:-1]:
        x = layers.layer(x, layer)
    if head.pooling == "tokens":
        pooled = layers.norm(layers.layer(x, encoder.layers[-1]), encoder.last_norm)
    elif head.pooling == "mean":
        rows = layers.norm(layers.layer(x, encoder.layers[-1]), encoder.last_norm)
        pooled = graph.op("ReduceMean", layers.by_sequence(rows), graph.integers(1), keepdims=0)
    else:
        row = layers.one_row(x, encoder.layers[-1], last=head.pooling == "last")
        pooled = layers.norm(row, encoder.last_norm)
    graph.output(pooled, "pooled", ["sequences", encoder.width])
    vectors = {head.vector: pooled}
    for step in head.steps:
        vectors[step.target] = layers.head_step(vectors[step.source], step.operation)
    graph.output(vectors[head.logits], "logits", ["sequences", head.labels])
    return graph
