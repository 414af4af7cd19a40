"""The outline of a model whose hub lies about names and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.backends.local import remote_outline
from rerank_plugins.backends.local.hub import ListedFiles
from rerank_plugins.backends.local.remote_outline import outlined

HEADER = {"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def lying_hub(
    monkeypatch: pytest.MonkeyPatch, names: list[str], header: Mapping[str, Any] = HEADER
) -> None:
    """Have the hubs list these files, with this header in each."""

    def fetched(*_: object, cache_folder: str, patterns: list[str], **__: object) -> Path:
        assert not {*patterns} & {*names[1:]}
        folder = Path(cache_folder) / "a" / "b"
        folder.mkdir(parents=True)
        return folder

    listed = ListedFiles("c" * 40, dict.fromkeys(names, 10))
    for name, function in {
        "list_files": lambda *_, **__: listed,
        "list_files_on_modelscope": lambda *_, **__: listed,
        "fetch": fetched,
        "fetch_from_modelscope": fetched,
        "fetch_header": lambda *_, **__: header,
    }.items():
        monkeypatch.setattr(remote_outline, name, function)


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_no_file_outside_of_the_folder_is_touched(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "model.safetensors", tmp_path / "config.json"
    for other in others:
        other.write_text("mine")
    up = "../" * 40
    names = [
        "model.safetensors",
        *(str(other) for other in others),
        *(f"{up}{other}" for other in others),
        f"{up}{tmp_path}/new.safetensors",
        "x/../../new.txt",
        "..\\new.txt",
        "C:new.txt",
        "C:\\new.txt",
        "\\\\host\\share\\new.txt",
    ]
    lying_hub(monkeypatch, names)

    with outlined("a/b", hub=hub, revision=None) as (folder, sizes, _):
        made = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        assert {"model.safetensors"} == {*sizes.sizes} == made
        assert not [*folder.parent.parent.glob("*new*")]

    assert {*others} == {*tmp_path.iterdir()}
    assert ["mine", "mine"] == [other.read_text() for other in others]


@pytest.mark.parametrize("end", [2**62, 2**63, 2**200, -(2**40)])
def test_a_length_that_no_file_has_is_an_error_of_ours(
    end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}
    lying_hub(monkeypatch, ["model.safetensors"], {"a.weight": entry})

    with (
        pytest.raises(ConfigError, match="which no file has"),
        outlined("a/b", hub="huggingface", revision=None),
    ):
        pass
