"""Datasets for evaluation: queries, documents, judgements and a first stage's candidates."""

from rerank_plugins.evaluation.datasets.dataset import Dataset
from rerank_plugins.evaluation.datasets.load import load_dataset
from rerank_plugins.evaluation.datasets.retriever import from_retriever

__all__ = ["Dataset", "from_retriever", "load_dataset"]
