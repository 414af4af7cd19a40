"""A prompt that the client writes around the texts of a request.

Importing this module is cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rerank_plugins.backends.prompt_templates import Prompt, split_template

__all__ = ["TextPrompt"]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """The text around the query and around each document: a prompt, cut between the two.

    The query gets what stands before it and what follows to the last line break before the
    document; the document gets the rest. A server that joins the two has the whole prompt.
    """

    prompt: Prompt
    """With its `text`."""

    @property
    def takes_instruction(self) -> bool:
        """Whether there is a place for an instruction."""
        return self.prompt.takes_instruction

    @property
    def digest(self) -> str:
        """A short text that differs for each prompt; it stands in names of backends."""
        words = repr((self.prompt.text, self.prompt.instruction, self.prompt.instruction_form))
        return hashlib.sha256(words.encode()).hexdigest()[:12]

    def with_instruction(self, instruction: str) -> Self:
        """Return the prompt with this instruction in place of its own."""
        return type(self)(self.prompt.with_instruction(instruction))

    def wrap(self, query: str, documents: Sequence[str]) -> tuple[str, list[str]]:
        """Return the query and the documents with the prompt around them."""
        before, between, after = split_template(self.prompt)
        line_end = between.rfind("\n") + 1
        to_document = between[line_end:]
        return (
            f"{before}{query}{between[:line_end]}",
            [f"{to_document}{document}{after}" for document in documents],
        )

    @property
    def size(self) -> int:
        """Bytes of JSON that each document grows by, at most."""
        _, between, after = split_template(self.prompt)
        return 2 * len((between + after).encode())
