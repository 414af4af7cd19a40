"""ONNX graphs that come ready in a model's folder, to be run as they are."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rerank_plugins.errors import ConfigError

__all__ = ["NO_DATA", "USUAL_GRAPHS", "check_name", "data_files", "find_graph", "graph_files"]

USUAL_GRAPHS = ("model.onnx", "onnx/model.onnx")
"""Where Optimum, and the hub's ONNX community, put the graph in float32."""

NO_DATA = (".jinja", ".json", ".md", ".model", ".onnx", ".py", ".safetensors", ".txt")
"""How files end that hold no weights of a graph."""


def find_graph(where: str, folder: Path, name: str | None) -> Path | None:
    """Return the graph of a folder: the one named, else the usual one, else the only one.

    Args:
        where: what messages call the folder.
        folder: the folder.
        name: the path of the graph in it; None: none is named.

    Raises:
        ConfigError: the named one is not there, or there are several and none is named.
    """
    found = {path.relative_to(folder).as_posix(): path for path in _graphs(folder)}
    if name is not None:
        if name not in found:
            raise ConfigError(f"{where} has no ONNX graph {name!r}; it has: {_listed(found)}")
        return found[name]
    usual = next((found[each] for each in USUAL_GRAPHS if each in found), None)
    if usual is None and len(found) > 1:
        raise ConfigError(
            f"{where} has several ONNX graphs; name one of them with `onnx_file`: {_listed(found)}"
        )
    return usual or next(iter(found.values()), None)


def graph_files(name: str | None) -> list[str]:
    """Return the files to fetch for a graph, with the weights that large ones keep beside them."""
    names = USUAL_GRAPHS if name is None else (name,)
    return [each + ending for each in names for ending in ("", "_data*", ".data*")]


def data_files(graph: Path) -> Iterator[Path]:
    """Yield the files beside a graph that hold weights of it: those whose names stand in it."""
    others = [
        path
        for path in sorted(graph.parent.iterdir())
        if path.suffix not in NO_DATA and not path.name.startswith(".") and path.is_file()
    ]
    if not others or not graph.stat().st_size:
        return
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield from (path for path in others if content.find(path.name.encode()) >= 0)


def check_name(name: object) -> None:
    """Check that an option is the path of a graph within a folder, or None.

    Raises:
        ConfigError: it is not.
    """
    if name is None:
        return
    path = PurePosixPath(name) if isinstance(name, str) else None
    if path is None or path.suffix != ".onnx" or path.is_absolute() or ".." in path.parts:
        raise ConfigError(
            "`onnx_file` must be the path of an ONNX graph in the model's folder, as in "
            f"'onnx/model_quantized.onnx', not {name!r}"
        )


def _graphs(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.onnx"))
    yield from sorted(folder.glob("onnx/*.onnx"))


def _listed(found: dict[str, Path]) -> str:
    return ", ".join(found) or "none"
