"""`rerank-plugins compare`: what it prints and writes."""

import json

import pytest
from typer.testing import CliRunner

from rerank_plugins.cli import app
from rerank_plugins.testing import FakeServer, serve_dialect


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "documents.jsonl"
    rows = [{"id": "p", "text": "Paris is in France."}, {"id": "b", "text": "Pandas\tare bears."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["compare", *arguments])


def test_a_pipe_gets_a_column_of_ranks_per_backend(file):
    done = run("bears", file, "-b", "embedded", "-b", "embedded?max_length=8")

    assert 0 == done.exit_code
    assert [
        ["first stage", "embedded", "embedded?max_length=8", "id", "document"],
        ["2", "1", "1", "b", "Pandas are bears."],
        ["1", "2", "2", "p", "Paris is in France."],
    ] == [line.split("\t") for line in done.stdout.splitlines()]


def test_the_default_backend_is_compared_with_the_file(file, monkeypatch):
    monkeypatch.delenv("RERANK_BACKEND", raising=False)
    result = json.loads(run("bears", file, "--json").stdout)

    assert [None, "probability"] == [row["scores"] and row["scale"] for row in result["orderings"]]
    assert [1, 0] == result["orderings"][1]["order"]
    assert ["p", "b"] == [document["id"] for document in result["documents"]]
    assert -1.0 == result["agreement"][0]["kendall_tau"]


def test_a_page_is_written_beside_what_is_printed(file, tmp_path):
    page = tmp_path / "page.html"
    done = run("熊 bears", file, "--html", str(page), "--top-n", "1")

    assert f"page: {page}\n" == done.stderr

    assert 0 == done.exit_code
    assert done.stdout
    assert "熊 bears" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["q", "/dev/null"], 3, "holds no documents"),
        (["q", "/no/such/file"], 3, "can't read"),
        (["q", "FILE", "-b", "embedded", "-b", "embedded"], 2, "appears twice"),
        (["q", "FILE", "-b", "lokal:x"], 2, "unknown kind of backend"),
        (["q", "FILE", "--html", "/no/such/folder/page.html"], 6, "can't write"),
        (["q", "FILE", "--top-n", "0"], 2, "--top-n"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(file, arguments, code, message):
    done = run(*(file if word == "FILE" else word for word in arguments))

    assert code == done.exit_code
    assert message in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_an_instruction_goes_to_each_backend(file):
    with FakeServer(serve_dialect("vllm")) as server:
        done = run(
            *(
                "bears",
                file,
                "-b",
                f"vllm+{server.url}?model=a",
                "-b",
                f"vllm+{server.url}?model=b",
            ),
            *("--instruction", "find animals", "--json"),
        )
        sent = [received.body["instruction"] for received in server.requests]

    assert (0, "bears") == (done.exit_code, json.loads(done.stdout)["query"])
    assert ["find animals"] * 2 == sent
