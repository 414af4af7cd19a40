"""A backend where datasets or files should stand is told how to be written."""

import re

import pytest
from typer.testing import CliRunner

from rerank_plugins.cli import app

COMMANDS = {
    "eval": (["eval", "demo:covidqa"], "dataset"),
    "canary": (["canary"], "dataset"),
    "rank": (["rank", "what is a panda?"], "file"),
    "compare": (["compare", "what is a panda?"], "file"),
}


def refused(*arguments):
    result = CliRunner().invoke(app, arguments)

    assert 2 == result.exit_code
    assert 1 == len(result.stderr.splitlines())
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "spec",
    [
        "local:owner/model",
        "embedded",
        "tei+http://gpu:80",
        "xinference+https://gpu?model=m&timeout=3",
    ],
)
def test_a_spec_is_no_dataset_and_no_file(command, spec):
    words, what = COMMANDS[command]

    message = f"error: .*'{re.escape(spec)}' is a backend, no {what}; write: --backend "
    assert re.match(message + re.escape(spec), refused(*words, spec))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_address_of_a_server_is_no_dataset_and_no_file(command):
    words, what = COMMANDS[command]
    told = refused(*words, "http://gpu:9997")

    assert (
        f"is an address, no {what}; for the server there write: --backend KIND+http://gpu" in told
    )


def test_a_configuration_is_no_dataset(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text('[backend]\nkind = "embedded"\n')

    assert f"write: --backend {file}" in refused("eval", str(file)).replace("\n", "")


def test_a_file_may_be_called_like_a_backend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").write_text("hi\na panda\n")
    result = CliRunner().invoke(app, ["rank", "panda", "embedded", "--backend", "embedded"])

    assert 0 == result.exit_code, result.output


def test_what_is_no_spec_gets_the_list_of_datasets():
    assert "there is no dataset 'local:m?devise=cpu'" in refused("eval", "local:m?devise=cpu")
