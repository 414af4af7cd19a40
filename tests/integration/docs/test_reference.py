"""What is public is what `__all__` of the public modules says, and the reference lists it."""

import importlib
import pkgutil

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
pytest.importorskip("opentelemetry", reason="needs the extra `opentelemetry`")

import rerank_plugins
from tests.integration.docs.reference import PAGE, PUBLIC, own_doc, page, summary

COMMAND_LINE = {"__main__", "cli"}  # its commands are public, its modules are not
ONLY_FOLDERS = {"backends", "wrappers"}


def test_the_page_shows_the_docstrings():
    """Write it anew by `python -m tests.integration.docs.reference`."""
    assert page() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_export_has_a_docstring(name):
    module = importlib.import_module(name)

    assert [] == [export for export in module.__all__ if not summary(module, export)]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_have_a_docstring_of_their_own_or_inherited(name):
    module = importlib.import_module(name)
    exports = [getattr(module, export) for export in module.__all__]
    classes = [value for value in exports if isinstance(value, type)]
    silent = [
        f"{value.__name__}.{attribute}"
        for value in classes
        for attribute, member in vars(value).items()
        if callable(member) and not attribute.startswith("_")
        if not any(getattr(vars(base).get(attribute), "__doc__", None) for base in value.__mro__)
    ]

    assert [] == silent


def test_no_public_module_has_a_private_name():
    assert not [name for name in PUBLIC if "._" in name]


def test_no_module_is_public_by_accident():
    """One on the top level is in the reference, or has an underscore."""
    modules = {module.name for module in pkgutil.iter_modules(rerank_plugins.__path__)}
    public = {name.split(".")[1] for name in PUBLIC if "." in name}

    assert public == {name for name in modules - COMMAND_LINE if not name.startswith("_")}
    assert ONLY_FOLDERS <= public


def test_docstrings_of_dataclasses_are_written_by_hand():
    from dataclasses import dataclass  # noqa: PLC0415 - only here

    @dataclass
    class Undocumented:
        field: int

    assert own_doc(Undocumented) is None
