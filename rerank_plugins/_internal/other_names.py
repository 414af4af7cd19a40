"""What other libraries call options and values, and how people write numbers → what to write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

__all__ = ["number_hint", "suggestion"]

_OTHER_NAMES = {
    "api_base": "base_url",
    "bf16": "dtype=bfloat16",
    "ca_bundle": "verify",
    "cache_dir": "cache_folder",
    "cert": "verify",
    "endpoint": "base_url",
    "fp16": "dtype=float16",
    "fp32": "dtype=float32",
    "half": "dtype=float16",
    "int4": "dtype=int4",
    "int8": "dtype=int8",
    "load_in_4bit": "dtype=int4",
    "load_in_8bit": "dtype=int8",
    "max_length_tokens": "max_length",
    "max_seq_length": "max_length",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "model_uid": "model",
    "normalize": "scale",
    "num_threads": "threads",
    "precision": "dtype",
    "quantization": "dtype=int8",
    "quantize": "dtype=int8",
    "request_timeout": "timeout",
    "server_url": "base_url",
    "ssl_verify": "verify",
    "torch_dtype": "dtype",
    "uid": "model",
    "url": "base_url",
    "use_bf16": "dtype=bfloat16",
    "use_fp16": "dtype=float16",
    "verify_ssl": "verify",
}
"""What other libraries call an option, or the value of one → what it is here."""

_GROUPS = frozenset(
    {"automodel_args", "config_kwargs", "cross_encoder_kwargs", "model_args", "model_kwargs"}
    | {"tokenizer_kwargs"}
)
"""What other libraries call options that they pass on."""

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[a-z]+)", re.IGNORECASE)
_SECONDS = {
    "ms": 0.001,
    "s": 1,
    "sec": 1,
    "second": 1,
    "seconds": 1,
    "min": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
}


def suggestion(name: str, valid: Collection[str]) -> str:
    """Return which of `valid` an unknown name most likely means, as a text to append; or "".

    Args:
        name: an option or the value of one, as it was written.
        valid: the options, or the values, that there are.
    """
    if name in _GROUPS and "dtype" in valid:
        return "what it holds are options of their own here, as in device=cuda&dtype=float16; "
    other = _OTHER_NAMES.get(name.lower(), "")
    option, _, value = other.partition("=")
    if option in valid:
        close = [other]
    elif value in valid:
        close = [value]
    else:
        close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def number_hint(text: str) -> str:
    """Return how to write a number that has a unit, as a text to append; "" if it has none."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return ""
    seconds = _SECONDS.get(found["unit"].lower())
    example = "" if seconds is None else f", in seconds: {float(found['number']) * seconds:g}"
    return f"; write a number without a unit{example}"
