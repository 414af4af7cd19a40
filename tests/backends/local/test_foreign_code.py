"""Models that take their Python code from another repository of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from rerank_plugins import load_backend
from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.backends.local.foreign_code import code_repositories, parse_code_revisions
from rerank_plugins.errors import ConfigError

READ, OTHER = "a" * 40, "b" * 40
QUERY, DOCUMENTS = "what is a panda?", ["hi", "The giant panda is a bear.", "Paris"]
CONFIGURATION = """
from transformers import BertConfig

class FancyConfig(BertConfig):
    model_type = "fancy"
"""
MODELING = """
from transformers import BertForSequenceClassification
from .configuration import FancyConfig

class FancyForSequenceClassification(BertForSequenceClassification):
    config_class = FancyConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = {sign}output.logits
        return output
"""


@pytest.fixture
def plain(checkpoint):
    return Path(checkpoint("bert"))


@pytest.fixture
def folder(plain, tmp_path):
    """A model whose code is in `someone/code`."""
    folder = tmp_path / "fancy"
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "fancy",
        "architectures": ["FancyForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "someone/code--configuration.FancyConfig",
            "AutoModelForSequenceClassification": (
                "someone/code--modeling.FancyForSequenceClassification"
            ),
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub's cache that holds two commits of the code; the other one turns the order around."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "hub" / "models--someone--code"
    for commit, sign in ((READ, ""), (OTHER, "-")):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "configuration.py").write_text(CONFIGURATION)
        (snapshot / "modeling.py").write_text(MODELING.format(sign=sign))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(OTHER)
    return str(repository.parent)


def backend(folder: Path, cache: str, commit: str) -> LocalBackend:
    return LocalBackend(
        folder,
        device="cpu",
        cache_folder=cache,
        local_files_only=True,
        trust_remote_code=True,
        code_revisions=f"someone/code@{commit}",
        scale="logit",
    )


def test_the_commit_that_was_read_is_what_runs(plain, folder, cache):
    expected = LocalBackend(plain, engine="torch", device="cpu", scale="logit").score(
        QUERY, DOCUMENTS
    )
    read = backend(folder, cache, READ)
    assert list(read.score(QUERY, DOCUMENTS)) == pytest.approx(list(expected), abs=1e-5)
    other = backend(folder, cache, OTHER)
    assert list(other.score(QUERY, DOCUMENTS)) == pytest.approx([-x for x in expected], abs=1e-5)
    assert read.name != other.name
    assert READ[:12] in read.name


def test_the_code_is_locked_like_the_weights(folder, cache):
    files = backend(folder, cache, READ).model_files().paths
    assert files["someone/code/modeling.py"].read_text() == MODELING.format(sign="")
    assert "model.safetensors" in files


def test_the_repository_is_named_where_its_code_may_not_run(folder):
    with pytest.raises(ConfigError, match=r"in someone/code.*code_revisions='someone/code@COMMIT'"):
        LocalBackend(folder, engine="torch", device="cpu").score(QUERY, DOCUMENTS)


def test_code_without_a_commit_does_not_run(folder, cache):
    with pytest.raises(ConfigError, match=r"from the repository 'someone/code'; read it"):
        LocalBackend(
            folder, device="cpu", cache_folder=cache, local_files_only=True, trust_remote_code=True
        ).score(QUERY, DOCUMENTS)


def test_a_commit_that_is_not_there_is_said(folder, cache):
    with pytest.raises(ConfigError, match="'someone/code' is not in the local cache"):
        backend(folder, cache, "c" * 40).score(QUERY, DOCUMENTS)


def test_a_commit_of_a_repository_that_the_model_does_not_name_is_refused(plain, cache):
    with pytest.raises(ConfigError, match=r"takes no code from there.*: none"):
        backend(plain, cache, READ).score(QUERY, DOCUMENTS)


@pytest.mark.parametrize("text", ["someone/code", "code@" + READ, f"a/b@{READ[:12]}", "a/b@main"])
def test_what_is_no_pinned_repository_is_refused(text):
    with pytest.raises(ConfigError, match="'OWNER/NAME@COMMIT'"):
        LocalBackend("m", trust_remote_code=True, code_revisions=text)


def test_commits_are_for_code_that_may_run():
    with pytest.raises(ConfigError, match="needs `trust_remote_code=True`"):
        LocalBackend("m", code_revisions=f"a/b@{READ}")


def test_specs_carry_the_commits():
    spec = f"local:m?trust_remote_code=true&code_revisions=a/b@{READ},c/d@{OTHER}"
    assert load_backend(spec).to_spec()["code_revisions"] == f"a/b@{READ},c/d@{OTHER}"
    assert parse_code_revisions(f"a/b@{READ}, c/d@{OTHER}") == {"a/b": READ, "c/d": OTHER}


def test_references_of_every_shape_are_read():
    config = {"auto_map": {"AutoModel": "own.Model", "AutoConfig": "a/b--c.D"}}
    tokenizer = {"auto_map": {"AutoTokenizer": ["c/d--e.Slow", None]}}
    assert code_repositories(config, tokenizer, {}, {"auto_map": None}) == ("a/b", "c/d")


def test_the_name_tells_whether_own_code_runs(checkpoint, tmp_path):
    """transformers would load this one either way, and its own code scores differently."""
    folder = tmp_path / "own"
    shutil.copytree(checkpoint("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import BertForSequenceClassification\n\n"
        "class Own(BertForSequenceClassification):\n"
        "    def forward(self, *args, **options):\n"
        "        output = super().forward(*args, **options)\n"
        "        output.logits = -output.logits\n"
        "        return output\n"
    )
    found = {}
    for trusted in (False, True):
        with LocalBackend(
            folder, engine="torch", device="cpu", attention="padded", trust_remote_code=trusted
        ) as backend:
            found[backend.name] = list(backend.score("what is a panda?", ["hi", "a bear"]))

    assert len(found) == 2
    first, second = found.values()
    assert first == pytest.approx([1 - value for value in second], abs=1e-5)


KERNELS = [
    {"attn_implementation": "someone/kernel"},
    {"_attn_implementation": "someone/kernel@v1:forward"},
    {"attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
    {"text_config": {"experts_implementation": "someone/kernel"}},
]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("settings", KERNELS)
def test_no_configuration_chooses_compiled_code_of_a_repository(settings, trusted, plain, tmp_path):
    """transformers fetches and runs it, if `kernels` is installed."""
    folder = shutil.copytree(plain, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    with pytest.raises(ConfigError, match=r"compiled code from the repository 'someone/kernel"):
        LocalBackend(folder, trust_remote_code=trusted).describe()


def test_an_implementation_of_transformers_may_be_named(plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "eager"}))
    with LocalBackend(folder, engine="torch", device="cpu") as backend:
        assert len(backend.score(QUERY, DOCUMENTS)) == len(DOCUMENTS)
