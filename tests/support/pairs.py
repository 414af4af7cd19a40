"""Texts that engines are compared on: empty, short, long, Chinese, with special tokens."""

from typing import Any

CUT: dict[str, Any] = {"long_documents": "truncate"}
"""What other libraries do with the last of the documents."""

QUERY = "what is a panda?"
DOCUMENTS = [
    "",
    "The giant panda is a bear species endemic to China.",
    "Paris is the capital of France, and Berlin is the capital of Germany. " * 4,
    "大熊猫是中国特有的熊科动物。",
    "a literal [PAD] and <pad> inside of the text",
    "The quick brown fox jumps over the lazy dog. " * 90,
]
