"""From a spec to a backend."""

import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from rerank_plugins import Backend, ConfigError, load_backend
from rerank_plugins.backends.chat.dialects import SERVERS
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.backends.http import HTTPBackend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.spec import ENVIRONMENT_VARIABLE
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.retry import RetryingBackend

XINFERENCE = {"kind": "xinference", "base_url": "http://gpu:9997", "model": "bge", "timeout": 5.0}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("embedded", {"kind": "embedded"}),
        ("local:BAAI/bge-reranker-base", {"kind": "local", "model": "BAAI/bge-reranker-base"}),
        (" local:./my%20model ", {"kind": "local", "model": "./my model"}),
        ("local:C:/models/bge", {"kind": "local", "model": "C:/models/bge"}),
        (
            "local:m?device=cuda:0&local_files_only=true&max_length=256",
            {
                "kind": "local",
                "model": "m",
                "device": "cuda:0",
                "local_files_only": True,
                "max_length": 256,
            },
        ),
        ("xinference+http://gpu:9997?model=bge&timeout=5", XINFERENCE),
        ("tei+HTTPS://host/prefix", {"kind": "tei", "base_url": "https://host/prefix"}),
        ("tei+https://host/prefix", {"kind": "tei", "base_url": "https://host/prefix"}),
        ("cohere:rerank-v3.5", {"kind": "cohere", "model": "rerank-v3.5"}),
        (
            "jina+https://host?model=a+b",
            {"kind": "jina", "base_url": "https://host", "model": "a+b"},
        ),
    ],
)
def test_a_string_equals_its_mapping(spec, expected):
    from_string, from_mapping = load_backend(spec), load_backend(expected)

    assert expected.items() <= from_string.to_spec().items()
    assert from_mapping.to_spec() == from_string.to_spec()


@pytest.mark.parametrize(
    ("kind", "spec", "backend"),
    [
        ("embedded", {"kind": "embedded"}, EmbeddedBackend),
        ("local", {"kind": "local", "model": "m"}, LocalBackend),
        ("remote", {"kind": "cohere", "model": "m"}, HTTPBackend),
    ],
)
def test_kinds_build_their_backend(kind, spec, backend):
    assert isinstance(load_backend(spec), backend)


@pytest.mark.parametrize(
    ("kind", "option", "path"),
    [("local", "model", "/a/b"), ("local", "cache_folder", "/c"), ("tei", "verify", "/ca.pem")],
)
def test_a_path_is_as_good_as_its_text(kind, option, path):
    others = {"model": "m", **({"base_url": "http://gpu"} if kind == "tei" else {})}
    by_path = load_backend({"kind": kind, **others, option: Path(path)})
    by_text = load_backend({"kind": kind, **others, option: path})

    assert by_text.to_spec() == by_path.to_spec()
    assert path == by_path.to_spec()[option]
    assert (
        path == type(by_path)(**_keywords(by_path, kind) | {option: Path(path)}).to_spec()[option]
    )


def _keywords(backend, kind):
    options = {name: value for name, value in backend.to_spec().items() if name != "kind"}
    return options if kind == "local" else options | {"dialect": kind}


def test_a_backend_is_returned_as_it_is():
    backend = FakeBackend()

    assert backend is load_backend(backend)


def test_the_default_is_the_embedded_model(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)

    assert isinstance(load_backend(), EmbeddedBackend)


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_means_the_embedded_model(monkeypatch, blank):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, blank)

    assert isinstance(load_backend(), EmbeddedBackend)


def test_the_environment_names_the_default(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "xinference+http://gpu:9997?model=bge&timeout=5")

    assert XINFERENCE.items() <= load_backend().to_spec().items()


def test_a_wrong_variable_is_named(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "embeded")
    with pytest.raises(ConfigError, match=r"did you mean 'embedded'\?.* variable RERANK_BACKEND"):
        load_backend()


def write(folder, text):
    path = folder / "rerank.toml"
    path.write_text(text, encoding="utf-8")
    return path


TOML = """
[backend]
kind = "xinference"
base_url = "http://gpu:9997"
model = "bge"
timeout = 5
"""


@pytest.mark.parametrize("form", [str, Path, " {} ".format])
def test_a_file_equals_its_mapping(tmp_path, form):
    backend = load_backend(form(write(tmp_path, TOML)))

    assert load_backend(XINFERENCE).to_spec() == backend.to_spec()


def test_the_content_of_a_file_is_a_mapping():
    assert load_backend(XINFERENCE).to_spec() == load_backend({"backend": XINFERENCE}).to_spec()


def test_the_mapping_is_left_alone():
    options = dict(XINFERENCE)
    load_backend(options)

    assert options == XINFERENCE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[backend", "not valid TOML"),
        ("", "no table `backend` in '.*rerank.toml'"),
        ("[server]\nport = 80", r"no table `backend` .*; add the line \[backend\], and below it"),
        ('kind = "local"\nmodel = "m"', r"put these in '.*' under \[backend\]: `kind`, `model`"),
        ('model = "m"', "`kind` is missing in '.*rerank.toml'; add one of: azure, bedrock"),
        ('top = 1\n[backend]\nkind = "embedded"', r"under \[backend\]: `top`"),
        ("backend = 3", "no table `backend`"),
        ('[backends]\nkind = "embedded"', "unknown table 'backends' .* did you mean 'backend'"),
        (
            '[backend]\nkind = "embeded"',
            "unknown kind of backend 'embeded'; did you mean 'embedded'",
        ),
        ('[backend]\nmodel = "m"', "the table `backend` in '.*' names no `kind`"),
        ('[backend]\nkind = "local"\nmodel = 3', "`model` must be str, not 3"),
        ('[backend]\nkind = "local"\nmodel = "m"\napi_key = "hunter2"', "`api_key` is a secret"),
    ],
)
def test_the_error_of_a_wrong_file_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_backend(write(tmp_path, text))

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "the spec is empty"),
        ("BAAI/bge-reranker-base", "for a local model write: local:BAAI/bge-reranker-base"),
        ("http://gpu:9997", r"xinference\+http://host:9997"),
        ("xinference://gpu:9997?model=m", r"write xinference\+http://gpu:9997$"),
        ("tei://me:hunter2@gpu:80", r"write tei\+http://gpu:80$"),
        ("xinference+gpu:9997?model=m", r"missing; write xinference\+http://gpu:9997$"),
        ("tei+me:hunter2@gpu", r"missing; write tei\+http://gpu$"),
        ("xinference:http://gpu:9997", r"write xinference\+http://gpu:9997$"),
        ("tei:https://me:hunter2@gpu/x", r"write tei\+https://gpu/x$"),
        ("xinference:gpu:9997?model=m", r"write xinference\+http://gpu:9997$"),
        ("localhost:8080", r"which server that is; .* as in xinference\+http://localhost:8080\?"),
        ("local:m&device=cpu", r"options follow a `\?` .* write local:m\?device=cpu$"),
        ("cohere:m&timeout=3&api_key_env=K", r"write cohere:m\?timeout=3&…$"),
        (
            "bge-reranker-large",
            "for the model on this machine write: local:BAAI/bge-reranker-large",
        ),
        ("Qwen3-Reranker-0.6B", "write: local:Qwen/Qwen3-Reranker-0.6B"),
        ("ms-marco-MiniLM-L6-v2", r"for a server's: xinference\+http://HOST:9997\?model=ms-marco"),
        ("file:///srv/model", "'file:///srv/model' is a folder .* write local:/srv/model$"),
        ("FILE://localhost/srv/my%20model?device=cpu", "no server; write local:/srv/my model$"),
        ("file:///C:/models/x", "no server; write local:C:/models/x$"),
        ("file:models/x", "no server; write local:models/x$"),
        ("local:file:///srv/model", "no server; write local:/srv/model$"),
        ("local+file:///srv/model", "no server; write local:/srv/model$"),
        ("file:///srv/rerank.toml", "is a file on this machine; write its path: /srv/rerank.toml$"),
        ({"kind": "local", "model": "file:///srv/model"}, "not its URL .* write '/srv/model'$"),
        ("rerank.yaml", "'rerank.yaml' is no TOML file"),
        ("conf/rerank.JSON", "'conf/rerank.JSON' is no TOML file"),
        ("vllm:BAAI/x", r"needs `base_url`.*write vllm\+http://HOST:8000\?model=BAAI/x$"),
        ("tei", r"needs `base_url`.*write tei\+http://HOST:8000$"),
        ("locale:BAAI/x", "kind of backend 'locale'; did you mean 'local'.* write: local:BAAI/x$"),
        ("hf:BAAI/x", "unknown kind of backend 'hf'; .* for a local model write: local:BAAI/x$"),
        ("mine:Own", 'for a class of yours write in a file or a mapping: kind = "mine:Own"$'),
        ("C:/models/x", "for a local model write: local:C:/models/x$"),
        ("coher:rerank-v3.5", "did you mean 'cohere'.*zhipu$"),
        ("lokal:m", "unknown kind of backend 'lokal'; did you mean 'local'?"),
        ("xinferenc+http://gpu", "unknown kind of backend 'xinferenc'; did you mean 'xinference'?"),
        ("local+http://gpu", "kind 'local' takes no URL"),
        ("local", "needs the option `model`"),
        ("local:m?devise=cpu", "unknown option 'devise' for kind 'local'; did you mean 'device'?"),
        ("local:m?model=n", "'model' is given twice"),
        ("local:m?device=cpu&device=cuda", "'device' is given twice"),
        ("local:m?device", "'device' has no value"),
        ("local:m?device=gpu", "`device` must be .*'cuda'.* not 'gpu'"),
        ("local:m?use_fp16=true", "did you mean 'dtype=float16'"),
        ("local:m?fp16=true", "did you mean 'dtype=float16'"),
        ("local:m?load_in_8bit=true", "did you mean 'dtype=int8'"),
        ("local:m?load_in_4bit=true", "did you mean 'dtype=int4'"),
        ("local:m?torch_dtype=float16", "did you mean 'dtype'"),
        ("local:m?dtype=fp16", "must be .* not 'fp16'; did you mean 'float16'"),
        ("local:m?dtype=BF16", "did you mean 'bfloat16'"),
        ("local:m?model_kwargs=x", "options of their own here, as in device=cuda&dtype=float16"),
        ("local:m?cross_encoder_kwargs=x", "options of their own here"),
        ("local:m?token=hunter2", "`token` is a secret .* the hub's is HF_TOKEN"),
        ("cohere:m?ssl_verify=false", "did you mean 'verify'"),
        ("local:m?top_k=3", "`top_k` is no option of kind 'local'.* give `top_n`"),
        ("local:m?max_length=long", "`max_length` must be int or none, not 'long'"),
        ("local:m?dtype=float8", "`dtype` must be .*'float32'.* not 'float8'"),
        ("cohere:m?api_key=hunter2", "`api_key` is a secret"),
        ("local:m?kind=embedded", "'kind' is given twice"),
        ("tei+http://gpu?base_url=http://other", "'base_url' is given twice"),
        ("tei+http://me:hunter2@host", "must hold neither a user name"),
        ("tei+http://gpu#api_key=hunter2", "nor a fragment"),
        ("nul\0.toml", "not valid TOML: embedded null byte"),
        ("tei+http://[::1", "the URL in the spec is malformed"),
        ("missing.toml", "can't read 'missing.toml'"),
        (3, "a backend spec must be a string"),
        (["local:m"], "a backend spec must be a string"),
        ({"kind": 3}, "`kind` in the table `backend` .* must be a string, not 3"),
        ({"kind": "cohere", "model": "m", "api_key": "hunter2"}, "`api_key` is a secret"),
        ({"kind": "cohere", "model": "m", "timeout": 10**400}, "`timeout` must be float"),
        ({"kind": "vllm", "url": "http://gpu", "model": "m"}, "'url' .* mean 'base_url'"),
        ({"kind": "xinference", "uid": "m"}, "unknown option 'uid' .* did you mean 'model'"),
        ({"model": "m"}, "`kind` is missing in the mapping; add one of: azure, bedrock"),
        ({}, "no table `backend` in the mapping"),
    ],
)
def test_the_error_of_a_wrong_spec_says_what_is_wrong(spec, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_backend(spec)

    assert "hunter2" not in str(caught.value)


# Wrappers and chains

REMOTE = {"kind": "tei", "base_url": "http://gpu:8080"}
CHAIN = """
[backend]
kind = "tei"
base_url = "http://gpu:8080"

[retry]
attempts = 5
deadline = "4.5"

[breaker]
failures = 2

[[fallback]]
kind = "vllm"
base_url = "http://other:8000"
model = "m"

[[fallback]]
kind = "local"
model = "m"
"""


def layers(backend):
    """Return the names of the classes from the outside to the inside."""
    names = [type(backend).__name__]
    while backend := getattr(backend, "wrapped", None):
        names.append(type(backend).__name__)
    return names


def test_tables_are_wrappers_in_a_fixed_order(tmp_path):
    """Whatever their order in the file; what is for servers is not put around local models."""
    chain = load_backend(write(tmp_path, CHAIN))

    assert FallbackBackend is type(chain)
    remote = ["CircuitBreakingBackend", "RetryingBackend", "HTTPBackend"]
    assert [remote, remote, ["LocalBackend"]] == [layers(backend) for backend in chain.children]


def test_an_empty_table_means_the_defaults():
    assert ["RetryingBackend", "HTTPBackend"] == layers(
        load_backend({"backend": REMOTE, "retry": {}})
    )


def test_wrapped_backends_are_written_as_tables(tmp_path):
    chain = load_backend(write(tmp_path, CHAIN))
    spec = chain.to_spec()

    assert REMOTE == spec["backend"]
    assert (5, 4.5) == (spec["retry"]["attempts"], spec["retry"]["deadline"])
    assert ["vllm", "local"] == [part["kind"] for part in spec["fallback"]]
    assert spec == load_backend(spec).to_spec()
    assert spec == pickle.loads(pickle.dumps(chain)).to_spec()


def test_a_backend_that_no_file_can_express_has_no_spec():
    retrying = RetryingBackend(load_backend(REMOTE))
    other = RetryingBackend(load_backend(REMOTE), attempts=9)

    for backend in (RetryingBackend(retrying), FallbackBackend([retrying, other])):
        with pytest.raises(ConfigError, match="can't be written"):
            backend.to_spec()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"backend": REMOTE, "retry": 3}, r"`retry` must be a table, not 3; write: \[retry\]"),
        ({"backend": REMOTE, "retry": {"attempt": 3}}, "'attempt' for table 'retry'; did you mean"),
        ({"backend": REMOTE, "retry": {"attempts": "three"}}, "`attempts` must be int, not 'three"),
        ({"backend": REMOTE, "retry": {"attempts": 0}}, "`attempts` must be an integer of at"),
        ({"backend": REMOTE, "retry": {"wrapped": 1}}, "unknown option 'wrapped'"),
        ({"backend": REMOTE, "retries": {}}, "unknown table 'retries' .* did you mean 'retry'"),
        ({"backend": REMOTE, "fallback": REMOTE}, r"must be a list of tables; write: \[\[fallback"),
        ({"backend": REMOTE, "fallback": ["embedded"]}, "must be a list of tables"),
        ({"backend": REMOTE, "fallback": [{"model": "m"}]}, "the table `fallback` .* no `kind`"),
        ({"backend": {"kind": ["tei"]}}, r"`kind` in the table `backend` .* not \['tei'\]"),
        ({"backend": {"kind": {}}}, "`kind` in the table `backend` .* must be a string"),
        ({"backend": REMOTE, "fallback": [{"kind": []}]}, "`kind` in the table `fallback`"),
        ({"kind": ["tei"]}, "`kind` .* must be a string"),
        (
            {"backend": {"kind": "embedded"}, "retry": {}},
            r"`\[retry\]` applies to remote backends only, .* remove it",
        ),
        (
            {"backend": REMOTE, "fallback": [{"kind": "local", "model": "m", "scale": "logit"}]},
            "must have one scale",
        ),
    ],
)
def test_the_error_of_a_wrong_table_says_what_is_wrong(tables, message):
    with pytest.raises(ConfigError, match=message):
        load_backend(tables)


OWN = f"{__name__}:Own"


class Own(FakeBackend):
    """A backend of a user's own."""

    def __init__(self, *, weight: float, words: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.words = words


def test_a_users_backend_is_named_by_its_class(tmp_path):
    """Its keywords are options, and every wrapper fits."""
    file = write(
        tmp_path, f'[backend]\nkind = "{OWN}"\nweight = "0.5"\nwords = true\n[retry]\n[cache]\n'
    )
    chain = load_backend(file)
    own = chain.wrapped.wrapped

    assert ["cache", "retry", "fake"] == [backend.kind for backend in chain.walk()]
    assert (Own, 0.5, True) == (type(own), own.weight, own.words)


class Loose(FakeBackend):
    """A backend of a user who annotates little, and takes what comes."""

    def __init__(self, folder, weights: list[float], path: Path = Path(), **others: object) -> None:
        super().__init__()
        self.settings = (folder, weights, path, others)


class Lazy(FakeBackend):
    """A backend whose annotation exists for type checkers only."""

    def __init__(self, *, session: "Session | None" = None, size: int = 1) -> None:  # noqa: F821
        super().__init__()
        self.settings = (session, size)


class Unfinished(Backend):
    """A backend that lacks its methods."""


def test_a_user_class_may_have_any_annotations():
    loose = {"kind": f"{__name__}:Loose", "folder": 3, "weights": [1], "path": "a/b", "x": "1"}

    assert (3, [1.0], Path("a/b"), {"x": "1"}) == load_backend(loose).settings
    assert (None, 2) == load_backend({"kind": f"{__name__}:Lazy", "size": 2}).settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": f"{__name__}:Loose"}, "needs the option `folder`; valid options: folder, path"),
        (
            {"kind": f"{__name__}:Loose", "folder": 1, "weights": "a,b"},
            "`weights` must be a list, not 'a,b'",
        ),
        ({"kind": f"{__name__}:Unfinished"}, "can't be built: it does not implement name, score"),
        ({"kind": "no_such_module:Own"}, "there is no module 'no_such_module'"),
        ({"kind": f"{__name__}.deeper:Own"}, "there is no module"),
        ({"kind": f"{__name__}:Missing"}, "has no class 'Missing'"),
        ({"kind": f"{__name__}:write"}, "write' is not a subclass of `rerank_plugins.Backend`"),
        ({"kind": "json:JSONDecoder"}, "not a subclass of `rerank_plugins.Backend`"),
        ({"kind": "os.path"}, r'unknown kind .* or a class of yours: kind = "package.module:Cl'),
        ({"kind": OWN}, "needs the option `weight`; valid options: weight, words"),
        ({"kind": OWN, "weigth": 1}, "unknown option 'weigth' for kind .* did you mean 'weight'"),
        ({"kind": OWN, "weight": "heavy"}, "`weight` must be float, not 'heavy'"),
    ],
)
def test_the_error_of_a_wrong_user_class_says_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        load_backend(options)


def test_an_import_error_in_a_users_module_is_raised_unchanged(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import no_such_need\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="no_such_need"):
        load_backend({"kind": "needy:Own"})


def test_every_dialect_is_a_kind():
    for dialect in DIALECTS:
        options = {"kind": dialect, "base_url": "http://gpu:8000", "model": "m"}

        assert dialect == load_backend(options).kind


def test_every_chat_server_is_a_kind():
    for server in SERVERS:
        options = {"kind": server, "base_url": "http://gpu:8000", "model": "m"}

        assert server == load_backend(options).kind


@pytest.mark.parametrize("host", ["gpu:8000", "http://gpu:8000", "//gpu:8000"])
def test_an_address_in_place_of_a_chat_model_is_told_apart(host):
    with pytest.raises(ConfigError, match=r"write ollama\+http://gpu:8000"):
        load_backend(f"ollama:{host}")


def test_a_tag_in_a_models_name_is_no_port():
    """Ollama's names have one, as in `qwen3:8b`; a model of OpenAI's may as well."""
    assert "ft:gpt-5-mini:org:1234" == load_backend("openai:ft:gpt-5-mini:org:1234").model


def test_a_chain_is_labelled_by_its_models(tmp_path):
    """Without loading one."""
    assert "tei | vllm:m | local:m" == load_backend(write(tmp_path, CHAIN)).label


class AnyPath:
    """A path of another library's."""

    def __fspath__(self) -> str:
        return "a/model"


@pytest.mark.parametrize("path", [AnyPath(), PurePosixPath("a/model"), PureWindowsPath("a/model")])
def test_any_path_is_as_good_as_its_text(path):
    assert load_backend({"kind": "local", "model": path}).model.replace("\\", "/") == "a/model"


@pytest.mark.parametrize("form", [Path, str])
def test_a_folder_is_no_toml_file(tmp_path, form):
    (tmp_path / "model.toml").mkdir()
    with pytest.raises(ConfigError, match=r"is a folder, not a TOML file; .*write local:.*toml"):
        load_backend(form(tmp_path / "model.toml"))
