"""How a checkpoint reads a pair of texts: its prompt, and the tokens whose logits answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rerank_plugins.backends.local.module_chain import list_modules
from rerank_plugins.backends.prompt_templates import (
    LOCAL_TEMPLATES,
    PAIR,
    AnswerTokens,
    Prompt,
    check_template,
)
from rerank_plugins.errors import ConfigError

__all__ = ["PromptConfig", "PromptOptions", "is_encoder_decoder", "read_prompt_config"]

_ENCODER_DECODERS = frozenset({"mt5", "t5", "umt5"})

Read: TypeAlias = Callable[[str], Any]
"""Reads a JSON file of the checkpoint by its path in there; None: there is none."""


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
    causal = is_encoder_decoder(config) or any(
        str(name).endswith("ForCausalLM") for name in config.get("architectures") or ()
    )
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


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    """Whether it is a T5 or a relative that writes answers, as monoT5."""
    names = [str(name) for name in config.get("architectures") or ()]
    writes = any(name.endswith("ForConditionalGeneration") for name in names)
    return writes and config.get("model_type") in _ENCODER_DECODERS


def _default_prompt(settings: Mapping[str, Any]) -> str | None:
    name = settings.get("default_prompt_name")
    return (settings.get("prompts") or {}).get(name) if name is not None else None


def _prompt(model: str, prompt_options: PromptOptions, chat: Prompt | None) -> Prompt | None:
    instruction, template = prompt_options.instruction, prompt_options.template
    if template in LOCAL_TEMPLATES:
        prompt = LOCAL_TEMPLATES[template].prompt
        return prompt if instruction is None else prompt.with_instruction(instruction)
    if template is not None and template != PAIR:
        check_template(template, instruction)
        return Prompt(template, instruction)
    if template is None and chat is not None:
        return chat if instruction is None else chat.with_instruction(instruction)
    if instruction is not None:
        raise ConfigError(f"{model!r} has no prompt that takes an `instruction`; set `template`")
    return None


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
    if prompt_options.template in LOCAL_TEMPLATES:
        return LOCAL_TEMPLATES[prompt_options.template].answer_tokens
    raise ConfigError(
        f"{model!r} is a language model whose files name no answer tokens; {_template_hint()}"
    )


def _template_hint() -> str:
    return (
        f"set `template` to one of {sorted(LOCAL_TEMPLATES)} if the model's card names it, or to a "
        "text with {query} and {document}; a text needs `true_token` and `false_token` too. "
        "Example: local:MODEL?template=qwen3-reranker"
    )
