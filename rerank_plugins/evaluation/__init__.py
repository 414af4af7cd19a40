"""Measure what backends bring and cost on judged queries."""

from rerank_plugins.evaluation.datasets import Dataset, from_retriever, load_dataset
from rerank_plugins.evaluation.evaluate import evaluate
from rerank_plugins.evaluation.results import Evaluation

__all__ = ["Dataset", "Evaluation", "evaluate", "from_retriever", "load_dataset"]
