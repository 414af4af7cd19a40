"""Made-up pairs that show whether a model works as it should before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from rerank_plugins.backends.engines.checkpoint import Checkpoint
from rerank_plugins.backends.engines.tokenize import Pairs

__all__ = ["probe"]

_LENGTHS = (5, 17, 48)
_NO_SPECIAL_TOKEN = 10  # ids below are mostly special tokens


def probe(config: Any, checkpoint: Checkpoint) -> Pairs:
    """Return three pairs of random tokens; the longest is longer than any attention window.

    Args:
        config: the configuration of the transformers model.
        checkpoint: says how long a pair may be, and whether types are used.
    """
    window = getattr(config, "sliding_window", None) or 0
    wanted = (*_LENGTHS[:-1], max(_LENGTHS[-1], window + 24))
    lengths = [min(length, checkpoint.max_length) for length in wanted]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vocabulary = config.get_text_config().vocab_size
    ids = np.random.default_rng(0).integers(_NO_SPECIAL_TOKEN, vocabulary, offsets[-1])
    types = np.concatenate([np.arange(length) >= length // 3 for length in lengths])
    return Pairs(ids.astype(np.int32), (types & checkpoint.uses_types).astype(np.int32), offsets)
