"""The prompts of language models that rerank, as their authors publish them.

Importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = [
    "LOCAL_TEMPLATES",
    "PAIR",
    "TEMPLATES",
    "AnswerTokens",
    "Prompt",
    "PromptTemplate",
    "check_template",
    "split_template",
]

PAIR = "pair"
"""The value of `template` that stands for the tokenizer's own way to join two texts."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text around the query and the document."""

    text: str | None = None
    """With `{query}`, then `{document}`, and maybe `{instruction}`; None: the chat template."""
    instruction: str | None = None
    """What the model judges; None: what the template says by itself."""
    chat_options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords with which the checkpoint's chat template is called."""
    structured: bool | None = None
    """Whether the chat template reads a message's content as parts; None: try both."""
    instruction_form: str = field(default="{instruction}", repr=False)
    """How an instruction is written in the prompt, as in `"task: {instruction}"`."""

    @property
    def takes_instruction(self) -> bool:
        """Whether there is a place for an instruction; a chat template may still ignore it."""
        return self.text is None or "{instruction}" in self.text

    def with_instruction(self, instruction: str) -> Prompt:
        """Return the prompt with this instruction in place of its own."""
        text = self.instruction_form.replace("{instruction}", instruction)
        return replace(self, instruction=text)


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The words whose logits make the score: logit(true) - logit(false), or logit(true) alone."""

    true: str | int
    """A word that is one token, or the id of a token."""
    false: str | int | None = None


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The prompt of a family of rerankers, as its authors publish it."""

    prompt: Prompt
    answer_tokens: AnswerTokens


_QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
    'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
_MXBAI = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n{instruction}query: {query}\ndocument: {document}\n"
    "You are a search relevance expert who evaluates how well documents match search queries. "
    "For each query-document pair, carefully analyze the semantic relationship between them, "
    "then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\n"
    "Relevance:<|im_end|>\n<|im_start|>assistant\n"
)
_BGE = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)

TEMPLATES: dict[str, PromptTemplate] = {
    "bge-reranker-v2-gemma": PromptTemplate(
        Prompt("<bos>A: {query}\nB: {document}\n{instruction}", _BGE), AnswerTokens("Yes")
    ),
    "mxbai-rerank-v2": PromptTemplate(
        Prompt(_MXBAI, "", instruction_form="instruction: {instruction}\n"),
        AnswerTokens("1", "0"),
    ),
    "qwen3-reranker": PromptTemplate(
        Prompt(
            _QWEN3, "Given a web search query, retrieve relevant passages that answer the query"
        ),
        AnswerTokens("yes", "no"),
    ),
}
"""Templates by the names that the option `template` takes; no model is matched with them."""

LOCAL_TEMPLATES: dict[str, PromptTemplate] = {
    **TEMPLATES,
    "monot5": PromptTemplate(
        Prompt("Query: {query} Document: {document} Relevant:</s>"),
        AnswerTokens("▁true", "▁false"),
    ),
}
"""The same with those of models that no server here runs: T5's words begin with a mark."""


def check_template(template: str, instruction: str | None) -> None:
    """Check a template of the user's own.

    Raises:
        ConfigError: it lacks a place, has one twice, or does not fit the instruction.
    """
    query, document = template.find("{query}"), template.find("{document}")
    twice = any(template.count(name) > 1 for name in ("{query}", "{document}", "{instruction}"))
    if query < 0 or document < query or twice:
        raise ConfigError(
            f"`template` must be {PAIR!r}, one of {sorted(TEMPLATES)}, or a text that holds "
            f"{{query}} and then {{document}}, each once, not {template!r}"
        )
    if ("{instruction}" in template) != (instruction is not None):
        raise ConfigError(
            "`instruction` and an {instruction} in `template` need each other; set both or neither"
        )


def split_template(prompt: Prompt) -> Sequence[str]:
    """Return the text before the query, between query and document, and after the document."""
    before, _, rest = (prompt.text or "").partition("{query}")
    between, _, after = rest.partition("{document}")
    instruction = prompt.instruction or ""
    return [part.replace("{instruction}", instruction) for part in (before, between, after)]
