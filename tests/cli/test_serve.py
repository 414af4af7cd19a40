"""`rerank-plugins serve`: what its options set."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from typer.testing import CliRunner

from rerank_plugins.cli import app
from rerank_plugins.server import run


@pytest.fixture
def served(monkeypatch):
    """The applications that `serve` would have run."""
    served = []
    monkeypatch.setattr(run, "serve", lambda app, **_: served.append(app))
    monkeypatch.setattr("rerank_plugins.server.logs.configure_logs", lambda level: _Log())
    return served


class _Log:
    waiting = 0

    def flush(self):
        """Do nothing: there is no log."""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ("theirs",)),
        (["--model-name", "mine"], ("mine",)),
        (["--model-name", "mine", "--model-name", "*"], ("mine", "*")),
    ],
)
def test_names_of_models_replace_those_of_the_file(tmp_path, served, options, names):
    file = tmp_path / "rerank.toml"
    file.write_text('[backend]\nkind = "embedded"\n[server]\nmodel_names = ["theirs"]\n')
    result = CliRunner().invoke(app, ["serve", str(file), "--no-model-process", *options])

    assert 0 == result.exit_code, result.output
    assert names == served[0].state.settings.model_names
