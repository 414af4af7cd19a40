"""The option `template` of remote backends, and which served models are known to need it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from rerank_plugins._internal.options import unknown
from rerank_plugins.backends.http.dialect import Dialect
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.text_prompt import TextPrompt
from rerank_plugins.backends.prompt_templates import TEMPLATES, Prompt, check_template
from rerank_plugins.errors import ConfigError

__all__ = ["SERVER", "missing_template", "with_template"]

SERVER = "server"
"""The value of `template` which says that the server writes the prompt."""
_BY_NAME = {
    "mxbai-rerank-v2": re.compile(r"mxbai-rerank-(base|large)-v2", re.IGNORECASE),
    "qwen3-reranker": re.compile(r"qwen3-reranker", re.IGNORECASE),
}
"""Language models that rerank, by what their names hold; only a warning depends on it."""


def with_template(dialect: Dialect, template: str | None, instruction: str | None) -> Dialect:
    """Return the dialect with the prompt of the option `template` around its texts.

    Raises:
        ConfigError: there is no such template, or it is not for this dialect.
    """
    if template is None:
        return dialect
    if dialect.prompts_by != "client":
        able = [name for name, other in DIALECTS.items() if other.prompts_by == "client"]
        raise ConfigError(
            f"`template` is not for {dialect.name!r}; these send texts to the model as they come, "
            f"and need one for language models: {', '.join(able)}"
        )
    if template == SERVER:
        return dialect
    if template in _BY_NAME:
        prompt = TEMPLATES[template].prompt
    elif "{query}" in template:
        check_template(template, instruction)
        prompt = Prompt(template, instruction)
    else:
        names = [*_BY_NAME, SERVER]
        raise ConfigError(
            unknown("template", template, names) + ", or a text with {query} and {document}"
        )
    text_prompt = TextPrompt(prompt)
    facts = {**dialect.facts, "template": text_prompt.digest}
    return replace(dialect, prompt=text_prompt, facts=facts)


def missing_template(
    dialect: Dialect, template: str | None, models: Iterable[str | None]
) -> str | None:
    """Return words about a model that is known to need a template, and gets none; else None.

    Args:
        dialect: the protocol of its server.
        template: the option.
        models: the name of the model, or of all that the server has.
    """
    if template is not None or dialect.prompts_by == "server":
        return None
    for model in filter(None, models):
        for name, pattern in _BY_NAME.items():
            if pattern.search(model) and dialect.prompts_by == "nobody":
                return (
                    f"{model!r} is a language model that needs its prompt, and {dialect.name} "
                    "changes texts so that none survives: serve it with another server"
                )
            if pattern.search(model):
                return (
                    f"{model!r} is a language model that needs its prompt, and {dialect.name} "
                    f"sends it texts as they come: set template={name}, or template={SERVER} if "
                    "the server writes the prompt, as vLLM does with --chat-template"
                )
    return None
