"""Whether a string is text that can be written down."""

from rerank_plugins.errors import UnsupportedInputError

__all__ = ["check_encodable"]


def check_encodable(text: str, what: str) -> None:
    """Check that `text`, which messages call `what`, can be written as UTF-8.

    Raises:
        UnsupportedInputError: it holds a lone surrogate.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedInputError(
            f"{what} holds a lone surrogate (U+{ord(text[exc.start]):04X} at {exc.start}), which "
            "is not text; clean it with text.encode('utf-8', 'replace').decode()"
        ) from None
