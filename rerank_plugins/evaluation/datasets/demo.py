"""The small datasets in this package: real questions in English and Chinese."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from rerank_plugins.errors import ConfigError
from rerank_plugins.evaluation.bm25 import BM25_NAME
from rerank_plugins.evaluation.datasets.beir import read_folder
from rerank_plugins.evaluation.datasets.dataset import Dataset

__all__ = ["DEMO_NAMES", "read_demo"]

DEMO_NAMES = ("covidqa", "xquad-zh")
"""Biomedical questions in English; questions about Wikipedia in simplified Chinese."""


def read_demo(name: str) -> Dataset:
    """Read one of the datasets in this package; its `README.md` states origin and licence.

    Raises:
        ConfigError: there is no such dataset.
    """
    if name not in DEMO_NAMES:
        raise ConfigError(
            f"there is no dataset {name!r} in this package; valid: {', '.join(DEMO_NAMES)}"
        )
    with as_file(files("rerank_plugins.evaluation") / "demo" / name) as folder:
        dataset = read_folder(Path(folder), depth=1)
    return replace(
        dataset,
        name=name,
        first_stage=BM25_NAME,
        credit=_CREDITS[name],
    )


_CREDITS = {
    "covidqa": "COVID-QA (Möller et al., 2020), Apache-2.0; passages from CORD-19 articles, "
    "CC BY 4.0; sampled",
    "xquad-zh": "XQuAD (Artetxe et al., 2020), CC BY-SA 4.0, from Wikipedia; sampled",
}
