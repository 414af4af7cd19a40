"""Packages that come with an extra."""

import json

import pytest

from rerank_plugins import MissingDependencyError
from rerank_plugins._internal.optional import require


def test_an_installed_module_is_returned():
    assert json is require("json", extra="local")


def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingDependencyError, match=r"pip install 'rerank-plugins\[local\]'"):
        require("no_such_package.part", extra="local")


def test_an_import_error_inside_an_installed_package_is_raised_unchanged(tmp_path, monkeypatch):
    """Blaming the extra would mislead the user."""
    (tmp_path / "broken_package.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError) as caught:
        require("broken_package", extra="local")

    assert not isinstance(caught.value, MissingDependencyError)
    assert "no_such_package" == caught.value.name
