"""The command `lock`."""

import errno
import os

from typer.testing import CliRunner

from rerank_plugins.cli import app


def test_its_help_keeps_its_brackets():
    shown = " ".join(CliRunner().invoke(app, ["lock", "--help"]).stdout.split())

    assert "`model_lock` of [server] then" in shown
    assert "[standard output]" in shown


def test_a_lock_that_was_there_stays_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "model.lock"
    arguments = ["lock", "embedded", "-o", str(file)]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    before = file.read_text()
    assert '"models"' in before
    monkeypatch.setattr(os, "fsync", full)
    result = CliRunner().invoke(app, arguments)

    assert 6 == result.exit_code, result.stderr
    assert before == file.read_text()
    assert [file] == [*tmp_path.iterdir()]
