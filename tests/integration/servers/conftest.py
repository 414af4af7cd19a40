"""Real rerank servers as fixtures: each starts once, on the first test that needs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.servers import programs
from tests.integration.servers.launch import FOLDER, Server, environment, serving
from tests.support.ports import free_port

pytest.register_assert_rewrite("tests.integration.servers.agreement")

HERE = Path(__file__).parent
KEY = "a-key-for-tests-1234567890abcdef"
"""The key of each server that takes the key it is told."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(600))  # the first test of a server starts it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    if skipped := sum(FOLDER in str(report.longrepr) for report in reports):
        terminalreporter.write_line(
            f"{skipped} real-server tests skipped: set {FOLDER} to a folder made by "
            "`python tests/integration/servers/install.py DIR`",
            yellow=True,
            bold=True,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Show what the servers of a failed test printed."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Server):
                report.sections.append((f"{value.name}, the end of {value.log}", value.tail()))
    return report


@pytest.fixture(scope="session", autouse=True)
def key_variable() -> Iterator[str]:
    """Name an environment variable that holds `KEY`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEY", KEY)
        yield "RERANK_TEST_KEY"


# What the suites of `agreement` ask; a module that has another model says which.


@pytest.fixture(scope="module")
def remote_spec(spec_of: Callable[..., str]) -> str:
    """The spec of the server, with the model of `local_spec`."""
    return spec_of()


@pytest.fixture(scope="module")
def local_spec(tiny: Path) -> str:
    """The spec of the same model in this process."""
    return f"local:{tiny}?engine=torch"


# The models: one that all servers can load, and two that differ in one weight.


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[[str], str]) -> Path:
    """A tiny BERT cross-encoder: random weights, so its order means nothing, but is stable."""
    return Path(checkpoint("bert"))


def variant(tiny: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the model to `folder`, with `change` applied to its weights."""
    from safetensors.torch import (  # noqa: PLC0415 - not there where these tests are skipped
        load_file,
        save_file,
    )

    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def nan(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every score is NaN."""

    def change(weights: dict[str, Any]) -> None:
        weights["classifier.bias"].fill_(float("nan"))

    return variant(tiny, tmp_path_factory.mktemp("models") / "nan", change)


@pytest.fixture(scope="session")
def typeless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does not tell query from document by token types, as llama.cpp does not."""

    def change(weights: dict[str, Any]) -> None:
        types = weights["bert.embeddings.token_type_embeddings.weight"]
        types[1] = types[0]

    return variant(tiny, tmp_path_factory.mktemp("models") / "typeless", change)


# llama.cpp


@pytest.fixture(scope="session")
def gguf(typeless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `typeless` as llama.cpp reads it."""
    out = tmp_path_factory.mktemp("models") / "typeless.gguf"
    script = HERE / "to_gguf.py"
    subprocess.run([environment("llamacpp") / "python", script, typeless, out], check=True)
    return out


@pytest.fixture(scope="session")
def start_llamacpp(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a function that starts a llama.cpp server, for a `with` statement."""

    def start(*keys: str) -> Any:
        return serving_llamacpp("rank", gguf, tmp_path_factory.mktemp("llamacpp"), *keys)

    return start


def serving_llamacpp(
    task: str, gguf: Path, folder: Path, *keys: str
) -> AbstractContextManager[Server]:
    """Run llama.cpp's server for a task, `rank` or `chat`, with a model."""
    port = free_port()
    python, script = environment("llamacpp") / "python", HERE / "llamacpp_server.py"
    command = [python, script, task, gguf, str(port), *keys]
    return serving("llamacpp", command, port=port, health="/health", folder=folder)


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model that mostly answers yes or no to the prompts of rerankers."""
    pytest.importorskip("torch")
    from tests.support.checkpoints import build_language_model  # noqa: PLC0415 - it needs torch

    folder = build_language_model("qwen3", tmp_path_factory.mktemp("models") / "judge")
    answer_with(folder, "yes", "no")
    return folder


def answer_with(folder: Path, *words: str) -> None:
    """Make words of a language model's vocabulary likely answers, more so for some documents.

    They get what all of its last hidden states have in common, which the others lose.
    """
    import torch  # noqa: PLC0415 - not there where these tests are skipped
    from safetensors.torch import load_file, save_file  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = [f"<|im_start|>user\n{text}<|im_end|>\n" for text in ("panda", "hi", "大熊猫 bear")]
    with torch.no_grad():
        states = [
            model.model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
            for text in texts
        ]
    common = torch.stack(states).mean(0)
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"].clone()
    for word in words:
        rows[tokenizer.vocab[word]] += 6 * common / common.norm() ** 2
    weights["lm_head.weight"] = rows
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))


@pytest.fixture(scope="session")
def chat_llamacpp(judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp's server with `judge` as a chat model; needs `KEY`."""
    folder = tmp_path_factory.mktemp("llamacpp-chat")
    script, gguf = HERE / "language_model_to_gguf.py", folder / "judge.gguf"
    subprocess.run([environment("llamacpp") / "python", script, judge, gguf], check=True)
    with serving_llamacpp("chat", gguf, folder, KEY) as server:
        yield server


@pytest.fixture(scope="session")
def llamacpp(start_llamacpp: Any) -> Iterator[Server]:
    """llama.cpp's server with `typeless`; needs `KEY`."""
    with start_llamacpp(KEY) as server:
        yield server


# Infinity


@pytest.fixture(scope="session")
def start_infinity(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a function that starts an Infinity server, for a `with` statement."""

    def start(*models: Path, settings: dict[str, str]) -> Any:
        return programs.infinity(
            environment("infinity"),
            {model.name: model for model in models},
            folder=tmp_path_factory.mktemp("infinity"),
            settings=settings,
        )

    return start


@pytest.fixture(scope="session")
def infinity(start_infinity: Any, tiny: Path, nan: Path) -> Iterator[Server]:
    """Infinity with `tiny` and `nan`; needs `KEY`."""
    with start_infinity(tiny, nan, settings={"INFINITY_API_KEY": KEY}) as server:
        yield server


# LiteLLM


@pytest.fixture(scope="session")
def litellm(
    infinity: Server, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """LiteLLM's proxy: Cohere's protocol in front of Infinity; needs `KEY`."""
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    command = [environment("litellm") / "litellm", "--config", "config.yaml"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    upstream = {"model": f"infinity/{tiny.name}", "api_base": infinity.url, "api_key": KEY}
    gone = {"model": "infinity/gone", "api_base": "http://127.0.0.1:9", "api_key": KEY}
    config = {  # JSON is YAML
        "model_list": [
            {"model_name": "tiny", "litellm_params": upstream},
            {"model_name": "gone", "litellm_params": gone},
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "general_settings": {"master_key": f"sk-{KEY}"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANK_TEST_KEY_LITELLM", f"sk-{KEY}")
        with serving(
            "litellm",
            command,
            port=port,
            health="/health/liveliness",
            folder=folder,
            environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        ) as server:
            yield server


# Xinference


@pytest.fixture(scope="session")
def xinference(tiny: Path, nan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Xinference with `tiny` and `nan`, and keys, as it starts when nothing is configured.

    `RERANK_TEST_KEY_XINFERENCE` is set to a key for both models, `…_XINFERENCE_OTHER` to one
    for neither.
    """
    binaries, folder = environment("xinference"), tmp_path_factory.mktemp("xinference")
    with (
        pytest.MonkeyPatch.context() as patch,
        programs.xinference(binaries, folder=folder) as running,
    ):
        patch.setenv("RERANK_TEST_KEY_XINFERENCE", running.key("rerank", model_type="rerank"))
        patch.setenv("RERANK_TEST_KEY_XINFERENCE_OTHER", running.key("other", model_id="another"))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(running.launch, ("tiny", "nan"), (tiny, nan)))
        yield running.server
