"""The postprocessor's settings, and the errors of wrong ones."""

import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from rerank_plugins import ConfigError
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend
from tests.llama_index.nodes import QUERY, ScoresBackend, ids, wrapped


def test_building_one_loads_nothing():
    """The spec is checked; no connection is opened and no model is loaded."""
    postprocessor = RerankPostprocessor(backend="xinference+http://127.0.0.1:9?model=absent")

    assert "absent" == postprocessor.backend.to_spec()["model"]
    assert 3 == postprocessor.top_n
    assert postprocessor.min_score is None


def test_a_backend_is_shared_not_copied():
    backend = FakeBackend()

    assert RerankPostprocessor(backend=backend).backend is backend


def test_the_environment_names_the_default(monkeypatch):
    monkeypatch.setenv("RERANK_BACKEND", "tei+http://127.0.0.1:9")

    assert "tei" == RerankPostprocessor().backend.to_spec()["kind"]


def test_a_mapping_and_a_file_equal_the_string(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text('[backend]\nkind = "xinference"\nbase_url = "http://127.0.0.1:9"\nmodel = "m"')
    specs = (
        "xinference+http://127.0.0.1:9?model=m",
        {"kind": "xinference", "base_url": "http://127.0.0.1:9", "model": "m"},
        file,
        str(file),
    )
    first, *others = [RerankPostprocessor(backend=spec).to_dict() for spec in specs]

    assert [first] * 3 == others


@pytest.mark.parametrize("top_n", [-1, True, 2.5, "3", math.nan])
def test_a_wrong_top_n_is_refused(top_n):
    with pytest.raises(ConfigError, match="`top_n` must be"):
        RerankPostprocessor(backend=FakeBackend(), top_n=top_n)


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_a_wrong_min_score_is_refused(min_score):
    with pytest.raises(ConfigError, match="`min_score` must be"):
        RerankPostprocessor(backend=FakeBackend(), min_score=min_score)


def test_min_score_needs_a_scale():
    """A threshold on scores of unknown range would cut at random."""
    with pytest.raises(ConfigError, match=r"min_score=0.5 has no meaning .* cut with `top_n`"):
        RerankPostprocessor(backend=ScoresBackend(), min_score=0.5)
    for scale in ("probability", "logit"):
        RerankPostprocessor(backend=ScoresBackend(scale=scale), min_score=0.5)


@pytest.mark.parametrize("backend", ["nonsense", {"kind": "nonsense"}, 3, "absent.toml"])
def test_a_wrong_spec_is_refused(backend):
    with pytest.raises(ConfigError):
        RerankPostprocessor(backend=backend)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("api_key", "api_key_env"),
        ("base_url", r"xinference\+http"),
        ("batch_size", "batch_tokens"),
        ("device", r"\?device="),
        ("keep_retrieval_score", "`retriever_score`"),
        ("model", "backend='local:"),
        ("model_name", "backend='local:"),
        ("model_uid", r"\?model=UID"),
        ("score_threshold", "`min_score`"),
        ("server_url", r"xinference\+http"),
        ("top_k", "`top_n`"),
        ("topn", "did you mean 'top_n'"),
        ("trust_remote_code", r"\?trust_remote_code=true"),
        (
            "unheard_of",
            "valid: backend, callback_manager, count_tokens, distinct, instruction, keep",
        ),
    ],
)
def test_names_from_other_rerankers_get_an_error_with_the_right_one(name, answer):
    """The base class would ignore them in silence; no message repeats the value."""
    with pytest.raises(ConfigError, match=answer) as caught:
        RerankPostprocessor(**{"backend": FakeBackend(), name: "hunter2"})

    assert "hunter2" not in str(caught.value)


def test_settings_can_be_assigned():
    postprocessor = RerankPostprocessor(backend=FakeBackend())
    postprocessor.top_n = 1
    postprocessor.backend = ScoresBackend(0.25, 0.5)

    assert [1] == ids(postprocessor.postprocess_nodes(wrapped("a", "b"), query_str=QUERY))


def test_wrong_assignments_are_refused():
    """At once for a wrong type, before the backend is asked for a wrong value."""
    backend = FakeBackend()
    postprocessor = RerankPostprocessor(backend=backend)
    with pytest.raises(ValidationError):
        postprocessor.backend = "hunter2"
    with pytest.raises(ValidationError):
        postprocessor.top_k = 3
    postprocessor.top_n = -1
    with pytest.raises(ConfigError, match="`top_n` must be"):
        postprocessor.postprocess_nodes(wrapped("a"), query_str=QUERY)

    assert [] == backend.calls


def test_without_the_framework_the_extra_is_named():
    code = (
        "import sys; sys.modules['llama_index.core'] = None\n"
        "try:\n    import rerank_plugins.llama_index\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "MissingDependencyError" in done.stdout
    assert "pip install 'rerank-plugins[llama-index]'" in done.stdout
