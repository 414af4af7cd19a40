"""The prompt of a language model, and the tokens whose logits answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from rerank_plugins.backends.local.module_chain import list_modules
from rerank_plugins.errors import ConfigError

__all__ = [
    "PAIR",
    "TEMPLATES",
    "AnswerTokens",
    "Prompt",
    "PromptConfig",
    "PromptOptions",
    "read_prompt_config",
    "split_template",
]

PAIR = "pair"
"""The value of `template` that stands for the tokenizer's own way to join two texts."""

Read: TypeAlias = Callable[[str], Any]
"""Reads a JSON file of the checkpoint by its path in there; None: there is none."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What the user says about the prompt; None: what the files of the checkpoint say."""

    template: str | None = None
    instruction: str | None = None
    true_token: str | None = None
    false_token: str | None = None


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """How a checkpoint reads pairs and gives scores."""

    prompt: Prompt | None = None
    """None: the tokenizer joins pairs."""
    answer_tokens: AnswerTokens | None = None
    """None: a classifier gives the score."""
    query_prefix: str = ""
    """The text before every query where there is no prompt."""
    max_length: int | None = None
    """Most tokens that the checkpoint's files allow."""
    files: tuple[str, ...] = ()
    """The files of subfolders that these facts come from."""


def read_prompt_config(
    model: str,
    config: Mapping[str, Any],
    read: Read,
    *,
    has_chat_template: bool,
    prompt_options: PromptOptions,
) -> PromptConfig:
    """Read from a checkpoint's files and the user's options how the model is prompted.

    The files are `modules.json` and those it names, as sentence-transformers writes them, the
    chat template, and the architecture. Names of models mean nothing.

    Args:
        model: what to call the model in messages.
        config: `config.json`.
        read: gives another JSON file of the checkpoint.
        has_chat_template: whether its tokenizer has one.
        prompt_options: what the user sets; it overrides the files.

    Raises:
        ConfigError: the files don't say enough, and the message names the options that would;
            or an option does not suit the model.
    """
    chain = list_modules(model, read("modules.json"))
    causal = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
    scorer = next((module for module in chain if module.kind == "LogitScore"), None)
    if len(chain) > 1 and scorer is None:
        causal = False  # its own head scores, whatever the body was trained for
    elif chain and (scorer is not None) != causal:
        raise ConfigError(
            f"modules.json of {model!r} contradicts its architectures {config.get('architectures')}"
        )
    settings = (read("sentence_bert_config.json") or {}) if chain else {}
    text_options = settings.get("processing_kwargs") or {}
    default = _default_prompt(read("config_sentence_transformers.json") or {}) if chain else None
    chat = None
    if not chain and has_chat_template:
        chat = Prompt(None, default)
    elif "message" in (settings.get("modality_config") or {}):
        form = settings["modality_config"]["message"].get("format", "auto")
        structured = None if form == "auto" else form == "structured"
        chat = Prompt(None, default, text_options.get("chat_template") or {}, structured)
    prompt = _prompt(model, prompt_options, chat)
    files = () if scorer is None else (f"{scorer.folder}/config.json",)
    answer = _answer(model, prompt_options, read(files[0]) if files else None) if causal else None
    if not causal and (prompt_options.true_token or prompt_options.false_token):
        raise ConfigError(
            f"{model!r} is a classifier: `true_token` and `false_token` are for language models"
        )
    if answer is not None and not chain and prompt is None and prompt_options.template != PAIR:
        raise ConfigError(
            f"the files of {model!r} have no prompt for a pair of texts; {_template_hint()}"
        )
    return PromptConfig(
        prompt=prompt,
        answer_tokens=answer,
        query_prefix="" if prompt or not default else default,
        max_length=settings.get("max_seq_length")
        or (text_options.get("text") or {}).get("max_length"),
        files=files,
    )


def _default_prompt(settings: Mapping[str, Any]) -> str | None:
    name = settings.get("default_prompt_name")
    return (settings.get("prompts") or {}).get(name) if name is not None else None


def _prompt(model: str, prompt_options: PromptOptions, chat: Prompt | None) -> Prompt | None:
    instruction, template = prompt_options.instruction, prompt_options.template
    if template in TEMPLATES:
        prompt = TEMPLATES[template].prompt
        return prompt if instruction is None else prompt.with_instruction(instruction)
    if template is not None and template != PAIR:
        _check_template(template, instruction)
        return Prompt(template, instruction)
    if template is None and chat is not None:
        return chat if instruction is None else chat.with_instruction(instruction)
    if instruction is not None:
        raise ConfigError(f"{model!r} has no prompt that takes an `instruction`; set `template`")
    return None


def _check_template(template: str, instruction: str | None) -> None:
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


def _answer(
    model: str, prompt_options: PromptOptions, scores: Mapping[str, Any] | None
) -> AnswerTokens:
    if prompt_options.true_token is not None:
        return AnswerTokens(prompt_options.true_token, prompt_options.false_token)
    if prompt_options.false_token is not None:
        raise ConfigError("`false_token` needs a `true_token`")
    if scores is not None:
        true, false = scores.get("true_token_id"), scores.get("false_token_id")
        if type(true) is int and type(false) in {int, type(None)}:
            return AnswerTokens(true, false)
        raise ConfigError(f"the LogitScore of {model!r} names no tokens: {dict(scores)}")
    if prompt_options.template in TEMPLATES:
        return TEMPLATES[prompt_options.template].answer_tokens
    raise ConfigError(
        f"{model!r} is a language model whose files name no answer tokens; {_template_hint()}"
    )


def _template_hint() -> str:
    return (
        f"set `template` to one of {sorted(TEMPLATES)} if the model's card names it, or to a text "
        "with {query} and {document}; a text needs `true_token` and `false_token` too. Example: "
        "local:MODEL?template=qwen3-reranker"
    )


def split_template(prompt: Prompt) -> Sequence[str]:
    """Return the text before the query, between query and document, and after the document."""
    before, _, rest = (prompt.text or "").partition("{query}")
    between, _, after = rest.partition("{document}")
    instruction = prompt.instruction or ""
    return [part.replace("{instruction}", instruction) for part in (before, between, after)]
