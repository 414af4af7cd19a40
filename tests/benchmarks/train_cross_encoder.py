"""Train a cross-encoder from the encoder of the benchmarks.

python tests/benchmarks/train_cross_encoder.py GROUPS.jsonl.xz FOLDER [--evaluate SET ...]

Whether 8 bits keep an order can only be judged with a trained model. GROUPS
holds one JSON object per line: `q`, a text; `pos`, a passage that answers it; `negs`, passages that
look like it and don't. FOLDER becomes an ordinary checkpoint. A SET is a folder in the format of
`tests/data`: its best candidates of BM25 are ranked again, and the figures of both are printed.
One thread takes about 20 minutes and 2 GB.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import json
import lzma
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins import load_backend, rank  # noqa: E402 - as the line above
from tests.benchmarks.models import MODELS  # noqa: E402 - only found by the line above

_NEGATIVES = 2
_GROUPS = 8
"""Groups of a step: their passages are scored together."""
_TOKENS = 104
_FROZEN = 2
"""Layers that stay as they are, from the lowest; the tables of words and positions do as well."""
_RATE = 1.2e-4
_WARM_UP = 0.1
"""Share of the steps in which the rate grows."""
_POOL = 64
"""Steps whose groups are sorted by length together, so that little is padded."""

Group = tuple[str, list[str]]
"""A query and its passages; the first one answers it."""


def main() -> None:
    """Train, save, and evaluate on the sets that were named."""
    chosen = _parse()
    if not (chosen.folder / "model.safetensors").exists():
        torch.manual_seed(0)
        torch.set_num_threads(chosen.threads)
        base = MODELS["minilm"].build(chosen.folder.with_name(f"{chosen.folder.name}-base"))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        model.classifier.weight.data.normal_(0, 0.02)
        train(model, tokenizer, list(read_groups(chosen.groups, chosen.count)))
        model.save_pretrained(chosen.folder)
        tokenizer.save_pretrained(chosen.folder)
    for folder in chosen.evaluate:
        print(evaluated(chosen.folder, folder, queries=chosen.queries, documents=20), flush=True)


def read_groups(path: Path, count: int) -> Iterator[Group]:
    """Draw groups of a file, and the negatives of each, the same ones in every run."""
    drawn = random.Random(0)  # not for secrets
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    drawn.shuffle(rows)
    for row in rows[:count]:
        yield row["q"], [row["pos"], *drawn.sample(row["negs"], _NEGATIVES)]


def train(model: Any, tokenizer: Any, groups: Sequence[Group]) -> None:
    """Fine-tune the upper layers for one epoch, without dropout: no text comes twice."""
    body = model.base_model
    for part in (body.embeddings, *body.encoder.layer[:_FROZEN]):
        part.requires_grad_(requires_grad=False)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=_RATE, weight_decay=0.01)
    steps = len(groups) // _GROUPS
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda n: min((n + 1) / (_WARM_UP * steps), (steps - n) / (steps * (1 - _WARM_UP))),
    )
    model.eval()
    began, mean = time.monotonic(), math.log(1 + _NEGATIVES)
    for step, batch in enumerate(_batches(groups)):
        pairs = [(query, text) for query, texts in batch for text in texts]
        encoded = tokenizer(
            pairs, truncation=True, max_length=_TOKENS, padding=True, return_tensors="pt"
        )
        logits = model(**encoded).logits.view(len(batch), -1)
        wanted = torch.zeros_like(logits)
        wanted[:, 0] = 1
        ranked = torch.nn.functional.cross_entropy(logits, wanted)
        # Without this the logits of a query could lie anywhere.
        placed = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        (ranked + placed).backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        rate.step()
        mean += 0.02 * (ranked.item() - mean)
        if step % 20 == 0:
            spent = time.monotonic() - began
            print(f"step {step} of {steps}, loss {mean:.3f}, {spent:.0f} s", flush=True)


def _batches(groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
    """Yield the groups of each step, shuffled within pools of similar length."""
    drawn = random.Random(1)  # not for secrets
    for start in range(0, len(groups) - _GROUPS + 1, _GROUPS * _POOL):
        pool = sorted(
            groups[start : start + _GROUPS * _POOL], key=lambda g: max(map(len, g[1])) + len(g[0])
        )
        batches = [pool[i : i + _GROUPS] for i in range(0, len(pool) - _GROUPS + 1, _GROUPS)]
        drawn.shuffle(batches)
        yield from batches


def evaluated(model: Path, folder: Path, *, queries: int, documents: int) -> str:
    """Rerank BM25's candidates of a set; return the figures of both orders."""
    corpus, questions = _texts(folder / "corpus.jsonl"), _texts(folder / "queries.jsonl")
    candidates: dict[str, list[str]] = {}
    for query, document, *_ in _rows(folder / "candidates.tsv"):
        candidates.setdefault(query, []).append(document)
    relevant = {(row[0], row[1]) for row in _rows(folder / "qrels.tsv") if float(row[-1]) > 0}
    asked = random.Random(0).sample(sorted(candidates), min(queries, len(candidates)))
    orders = {"BM25": [candidates[query][:documents] for query in asked]}
    requests = [
        (questions[query], [corpus[key] for key in keys])
        for query, keys in zip(asked, orders["BM25"], strict=True)
    ]
    with load_backend(f"local:{model}?engine=onnx&local_files_only=true") as backend:
        scores = backend.score_many(requests)
    orders["judge"] = [
        [keys[ranked.index] for ranked in rank(row)]
        for keys, row in zip(orders["BM25"], scores, strict=True)
    ]
    figures = []
    for name, ordered in orders.items():
        places = [
            next((n for n, key in enumerate(keys[:10], 1) if (query, key) in relevant), math.inf)
            for query, keys in zip(asked, ordered, strict=True)
        ]
        mrr = sum(1 / place for place in places) / len(places)
        ndcg = sum(1 / math.log2(1 + place) for place in places) / len(places)
        figures.append(f"{name} MRR@10 {mrr:.4f}, nDCG@10 {ndcg:.4f}")
    return f"{folder.name}, {len(asked)} queries: {'; '.join(figures)}"


def _texts(path: Path) -> dict[str, str]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a cross-encoder to judge 8 bits with.")
    parser.add_argument("groups", type=Path, help="JSON lines, compressed by xz")
    parser.add_argument("folder", type=Path, help="becomes the checkpoint; kept if it is there")
    parser.add_argument("--count", type=int, default=3600, help="groups to train on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluate", type=Path, nargs="*", default=(), metavar="SET")
    parser.add_argument("--queries", type=int, default=100, help="most of each set")
    return parser.parse_args()


if __name__ == "__main__":
    main()
