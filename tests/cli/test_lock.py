"""The command `lock`."""

from typer.testing import CliRunner

from rerank_plugins.cli import app


def test_its_help_keeps_its_brackets():
    shown = " ".join(CliRunner().invoke(app, ["lock", "--help"]).stdout.split())

    assert "`model_lock` of [server] then" in shown
    assert "[standard output]" in shown
