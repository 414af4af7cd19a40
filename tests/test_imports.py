"""Who may import whom, and what `import rerank_plugins` may load."""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

PACKAGE = ROOT / "rerank_plugins"
if not PACKAGE.exists():  # the tests run against an installed wheel
    import rerank_plugins

    PACKAGE = Path(rerank_plugins.__file__).parent

ARROWS = (
    "errors ← {content, scores} ← {backend, hooks, ranking} ← scheduler ← {backends, wrappers}"
    " ← spec ← {langchain, llama_index, result} ← {bench, evaluation} ← server ← cli"
)
"""An arrow points at what is imported; nothing imports sideways within braces."""
INTERFACE = {"_internal", "errors", "content", "scores", "ranking", "backend"}
ASIDE = {
    "_internal": {"errors"},
    "_adapter": INTERFACE | {"hooks"},
    "": INTERFACE | {"spec", "result"},
    "testing": INTERFACE | {"spec"},
    "__main__": {"cli"},
}
"""What stands beside the arrows ("" is the façade), and all that it may import."""
SHARED_AFTER = {"errors": {"_internal"}, "spec": {"_adapter"}, "result": {""}}
"""From which layer on what stands aside may be imported."""
ADAPTERS = {"langchain", "llama_index"}


def allowed():
    """Return what each layer may import: all to its left but the adapters, which nothing needs."""
    layers, left = dict(ASIDE), set()
    for tier in ARROWS.split(" ← "):
        names = set(tier.strip("{}").split(", "))
        layers |= {name: set(left) for name in names}
        left |= (names - ADAPTERS).union(*(SHARED_AFTER.get(name, ()) for name in names))
    return layers


LAYERS = allowed()

HEAVY = {
    "boto3",
    "botocore",
    "fastapi",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "jwt",
    "langchain_core",
    "llama_index",
    "numpy",
    "onnx",
    "onnxruntime",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "redis",
    "rich",
    "sentence_transformers",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "uvicorn",
}
# Modules that may import a framework, and which.
HOMES = {"langchain_core": "langchain", "llama_index": "llama_index"}


def layer(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def imported(path):
    """Yield the dotted name of everything that `path` imports, at any depth of its code.

    What all may import may name the types of others, for type checkers alone.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in running(tree) if layer(path) == "_internal" else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "rerank_plugins":
                yield from (f"rerank_plugins.{alias.name}" for alias in node.names)
            else:
                yield node.module


def running(node):
    """Yield each node of the tree but those for type checkers alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("RerankCompressor", "langchain"),
        ("RerankRetriever", "langchain"),
        ("RerankPostprocessor", "llama_index"),
    ],
)
def test_an_adapter_at_the_top_is_answered_with_its_module(name, module):
    with pytest.raises(ImportError, match=f"^write: from rerank_plugins.{module} import {name}$"):
        exec(f"from rerank_plugins import {name}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_modules_import_inwards_only(path):
    own = layer(path)
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package == "rerank_plugins":
            target = rest.partition(".")[0]
            assert target in LAYERS[own] | {own}, f"{own or 'the façade'} imports {name}"
        if package in HOMES:
            assert HOMES[package] == own, f"{own} imports {name}"


def test_the_arrows_are_those_of_the_contributing_page():
    assert ARROWS in (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")


def test_every_folder_is_a_package():
    """One without `__init__.py` may be missing from the wheel."""
    assert [] == [path for path in SOURCES if not (path.parent / "__init__.py").exists()]


def test_every_module_has_a_layer():
    assert {layer(path) for path in SOURCES} == LAYERS.keys()


def test_a_class_name_stands_once():
    """Who greps for a name lands in the right file."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())

    assert {} == {name: paths for name, paths in places.items() if len(paths) > 1}


def test_one_module_imports_the_http_client():
    """Both libraries work because nothing else names one of them."""
    clients = {"httpcore", "httpcore2", "httpx", "httpx2"}
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if clients & {name.partition(".")[0] for name in imported(path)}
    }

    assert {"backends/http/client.py"} == users


def test_dialects_load_without_the_http_client():
    assert set() == HEAVY & modules_after("import rerank_plugins.backends.http.dialects")


def modules_after(statement):
    code = f"import sys; {statement}; import json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_loads_nothing_heavy():
    assert set() == HEAVY & modules_after("import rerank_plugins")


def test_building_backends_loads_no_model_library():
    """`load_backend` is cheap; the heavy imports wait for the first score."""
    loaded = modules_after(
        "from rerank_plugins import load_backend; load_backend('embedded'); load_backend('local:x')"
    )

    assert set() == (HEAVY - {"numpy"}) & loaded


def test_only_load_backend_reads_the_environment():
    code = """
import os, rerank_plugins
os.environ["RERANK_BACKEND"] = "nonsense"
try:
    rerank_plugins.load_backend()
except rerank_plugins.ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "unknown kind of backend 'nonsense'" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_exports_exist(path):
    """Their order is checked by the linter."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if not exported:
        return
    (names,) = exported
    for_types = [node.body for node in tree.body if isinstance(node, ast.If)]  # loaded when asked
    body = [*tree.body, *itertools.chain(*for_types)]
    defined = {getattr(node, "name", "") for node in body}
    for node in body:
        if isinstance(node, ast.Assign):
            names_in = (n for target in node.targets for n in ast.walk(target))
            defined |= {getattr(name, "id", "") for name in names_in}
        elif isinstance(node, ast.AnnAssign):
            defined.add(getattr(node.target, "id", ""))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            defined |= {alias.asname or alias.name for alias in node.names}

    assert len(set(names)) == len(names)
    assert set(names) <= defined


def test_the_library_never_prints():
    for path in SOURCES:
        if layer(path) in {"cli", "__main__"} or path.name == "recipe.py":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]

        assert not [c for c in calls if getattr(c.func, "id", "") == "print"], path


def test_no_module_asks_which_backend_it_has():
    """A backend says what it is; who asks for a class of ours overlooks a user's own."""
    classes = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    backends, found = set(), {"Backend"}
    while found:
        backends |= found
        found = {name for name, bases in classes.items() if bases & backends} - backends
    assert {"EmbeddedBackend", "HTTPBackend", "ModelProcess", "RetryingBackend"} < backends
    concrete = backends - {"Backend"}

    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
                "isinstance",
                "issubclass",
            }:
                names = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node)}
                assert not names & concrete, f"{path}:{node.lineno}"
