"""The command line: what it reads, what it prints, and how it exits."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import rerank_plugins
from rerank_plugins import (
    AuthenticationError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    DataError,
    InvalidResponse,
    MissingDependencyError,
    UnsupportedInputError,
)
from rerank_plugins.cli import app
from rerank_plugins.cli.documents import Entry, FileFormat, read_documents
from rerank_plugins.scores import Passage, Scores, Usage
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.support.instructed import InstructedBackend
from tests.support.terminal import in_terminal

QUERY = "what is a panda"
LINES = "hi\nthe panda is a bear\nwhat is a panda\n"
COMMAND = [sys.executable, "-m", "rerank_plugins"]


@pytest.fixture
def use(monkeypatch):
    """Return a function that makes every spec load one backend."""

    def put(backend):
        monkeypatch.setattr("rerank_plugins.result.load_backend", lambda spec: backend)

    return put


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A folder with `notes.txt` in it, which becomes the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text(LINES, encoding="utf-8")
    return tmp_path / "notes.txt"


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


class TestReadDocuments:
    def test_text_has_one_document_per_line(self, notes):
        assert [
            Entry("hi", f"{notes}:1"),
            Entry("the panda is a bear", f"{notes}:2"),
            Entry("what is a panda", f"{notes}:3"),
        ] == read_documents([notes])

    @pytest.mark.parametrize(
        "data",
        [
            "a\nb",
            "a\r\nb\r\n",
            "\ufeffa\nb\n",
            "\na\n\n  \nb\n",
        ],
        ids=["no last newline", "CR LF", "byte order mark", "blank lines"],
    )
    def test_the_ways_to_end_a_line(self, tmp_path, data):
        assert ["a", "b"] == [e.text for e in read_documents([write(tmp_path / "x.txt", data)])]

    def test_lines_are_counted_as_editors_do(self, tmp_path):
        """Unicode has more line breaks than `\\n`; they stay inside a document."""
        path = write(tmp_path / "x.txt", "a\u2028b\x0bc\n\n大熊猫\n")

        assert [("a\u2028b\x0bc", f"{path}:1"), ("大熊猫", f"{path}:3")] == [
            (entry.text, entry.source) for entry in read_documents([path])
        ]

    @pytest.mark.parametrize(
        ("line", "text", "name"),
        [
            ({"text": "a"}, "a", None),
            ({"page_content": "a", "metadata": {}}, "a", None),
            ({"id": "7", "contents": "a"}, "a", "7"),
            ({"_id": "d1", "title": "T", "text": "a"}, "T\na", "d1"),
            ({"id": 0, "title": "T"}, "T", "0"),
            ({"_id": None, "id": "x", "title": "", "text": "a"}, "a", "x"),
            ({"text": "", "title": None}, "", None),
            ({"id": "1", "question": "q", "abstract": "a"}, "a", "1"),
        ],
    )
    def test_json_lines_of_the_usual_shapes(self, tmp_path, line, text, name):
        path = write(tmp_path / "x.jsonl", json.dumps(line) + "\n")

        assert [Entry(text, f"{path}:1", name)] == read_documents([path])

    def test_the_format_is_detected(self, tmp_path):
        as_json = write(tmp_path / "x.data", '\ufeff\r\n{"text": "a"}\r\n{"text": "b"}\r\n')
        as_text = write(tmp_path / "y.data", '[1]\n{"text": "b"}\n')
        array = write(tmp_path / "z.data", '\ufeff[\n  "c",\n\n  "d"\n]\n')
        lines = write(tmp_path / "lines.json", '{"text": "e"}\n{"text": "f"}\n')

        assert ["a", "b", "[1]", '{"text": "b"}', "c", "d", "e", "f"] == [
            entry.text for entry in read_documents([as_json, as_text, array, lines])
        ]

    def test_a_json_array_holds_strings_or_objects(self, tmp_path):
        path = write(tmp_path / "x.json", '["a", {"id": "d", "text": "b\\nc"}, ""]')

        assert [
            Entry("a", f"{path}[0]"),
            Entry("b\nc", f"{path}[1]", "d"),
            Entry("", f"{path}[2]"),
        ] == read_documents([path])

    def test_an_empty_json_file_holds_nothing(self, tmp_path):
        assert [] == read_documents([write(tmp_path / "x.json", "")])

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("x.json", '["a",\n5]', "x.json[1]: expected a JSON object, not a number"),
            ("x.json", '[{"text": null}]', "x.json[0]: `text` is null, not a string"),
            ("x.json", '{\n"docs": ["a"]}', "x.json: expected a JSON array of strings or objects"),
            ("x.json", '["a"', "x.json: not valid JSON: "),
            ("x.json", '["\\ud800"]', "x.json[0]: the text holds a lone surrogate"),
            (
                "x.CSV",
                "id,text\n1,a\n",
                "is a table, which can't be read; convert it to JSON Lines",
            ),
            ("x.tsv", "", "is a table, which can't be read"),
        ],
    )
    def test_syntax_is_never_ranked_as_text(self, tmp_path, name, data, message):
        with pytest.raises(DataError, match=re.escape(message)):
            read_documents([write(tmp_path / name, data)])

    def test_a_csv_file_is_text_on_request(self, tmp_path):
        path = write(tmp_path / "x.csv", "1,a\n")

        assert ["1,a"] == [e.text for e in read_documents([path], FileFormat.TEXT)]

    def test_the_format_is_an_option(self, tmp_path):
        path = write(tmp_path / "x.jsonl", '{"text": "a"}\n')

        assert ['{"text": "a"}'] == [e.text for e in read_documents([path], FileFormat.TEXT)]
        with pytest.raises(DataError, match=r"y\.txt:1: not valid JSON"):
            read_documents([write(tmp_path / "y.txt", "a\n")], FileFormat.JSONL)

    def test_the_field_of_the_text_is_an_option(self, tmp_path):
        path = write(tmp_path / "x.jsonl", '{"text": "a", "body": "b", "title": "T"}\n')

        assert ["T\nb"] == [e.text for e in read_documents([path], text_keys=["body"])]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b'{"text": "a"}\n{"text": \n', r":2: not valid JSON"),
            (b'{"text": "a"}\nb\n', r":2: not valid JSON"),
            (b'{"text": "a"}\n[]\n', r":2: expected a JSON object, not an array"),
            (
                b'{"text": "a"}\n{"body": "b"}\n',
                r":2: found no text under .*page_content.*--text-key, out of: body",
            ),
            (b"{}\n", r":1: found no text .*it is empty"),
            (b'{"text": 5}\n', r":1: `text` is a number, not a string"),
            (b'{"text": null}\n', r":1: `text` is null, not a string"),
            (b'{"text": true}\n', r":1: `text` is a boolean, not a string"),
            (b'{"text": "a"}\n{"text": "\\ud800"}\n', r":2: the text holds a lone surrogate"),
            (b"[" * 100_000 + b"\n", r":1: not valid JSON"),
            (b'{"text": "a"}\n{"text": "\xff"}\n', r":2: not UTF-8 text \(byte 11\)"),
            ("héé\n".encode("latin-1"), r":1: not UTF-8 text \(byte 2\)"),
            ("hi\n".encode("utf-16"), r":1: not UTF-8 text \(it starts like UTF-16\)"),
        ],
    )
    def test_a_broken_line_is_named_by_file_and_line(self, tmp_path, data, message):
        path = write(tmp_path / "x.jsonl", data)

        with pytest.raises(DataError, match=re.escape(str(path)) + message):
            read_documents([path])

    def test_a_file_that_vanished_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"can't read '.*gone.txt': No such file"):
            read_documents([tmp_path / "gone.txt"])


class TestRank:
    def test_a_pipe_gets_lines_of_tab_separated_fields(self, notes, use):
        use(FakeBackend())
        done = run("rank", QUERY, "notes.txt")

        assert (0, "") == (done.exit_code, done.stderr)
        assert [
            "1\t+2\t1\tnotes.txt:3\twhat is a panda",
            "2\t+0\t0.75\tnotes.txt:2\tthe panda is a bear",
            "3\t-2\t0\tnotes.txt:1\thi",
        ] == done.stdout.splitlines()

    def test_fields_never_hold_tabs_or_line_breaks(self, tmp_path, use):
        use(FakeBackend())
        path = write(tmp_path / "x.jsonl", json.dumps({"id": "a\tb", "text": "c\td\r\ne\x1b[1m"}))

        assert "1\t+0\t0\ta b\tc d e [1m\n" == run("rank", QUERY, path).stdout

    @pytest.mark.parametrize("text", ["\x9b31mred", "\u202egpj.exe", "\x7f", "a\u2028b", "\x85"])
    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_documents_cannot_drive_the_terminal(self, tmp_path, use, text, options):
        """Nor reorder what it shows; JSON says the same in other letters."""
        use(FakeBackend())
        path = write(tmp_path / "x.jsonl", json.dumps({"id": text, "text": f"panda {text}"}))
        done = run("rank", QUERY, path, *options)

        assert done.stdout.replace("\n", "").replace("\t", "").isprintable()
        if options:
            assert f"panda {text}" == json.loads(done.stdout)["results"][0]["text"]

    @pytest.mark.parametrize("key", ["\x1b[31mred", "\x9b31m", "\u202etxt"])
    @pytest.mark.parametrize("options", [[], ["--debug"]])
    def test_errors_that_name_what_a_file_holds_cannot_either(self, tmp_path, use, key, options):
        use(FakeBackend())
        path = write(tmp_path / "x.jsonl", json.dumps({key: "panda"}, ensure_ascii=False))
        done = run("rank", QUERY, path, *options)

        assert 3 == done.exit_code
        assert done.stderr.replace("\n", "").isprintable()

    def test_an_instruction_reaches_the_model(self, notes, use):
        backend = InstructedBackend()
        use(backend)
        done = run("rank", "panda", notes.name, "--instruction", "find bears", "--json")

        assert ["find bears"] == backend.given
        result = json.loads(done.stdout)
        assert ("panda", "find bears") == (result["query"], result["instruction"])
        assert ["find bears"] == backend.given

    def test_a_backend_that_takes_no_instruction_refuses_it_by_name(self, notes):
        done = run("rank", "panda", notes.name, "--instruction", "find", "-b", "tei+http://gpu:1")

        assert 0 != done.exit_code
        assert "holds an instruction, and backend 'tei' can't tell" in done.stderr

    def test_json_is_one_document(self, notes, use):
        use(FakeBackend())
        more = write(notes.parent / "more.jsonl", '{"_id": "d1", "text": "a 大熊猫"}\n')
        done = run("rank", "熊 a", notes.name, more.name, "--json", "--top-n", 2)

        assert {
            "query": "熊 a",
            "backend": "fake",
            "label": "fake",
            "model": None,
            "scale": "probability",
            "cached": 0,
            "usage": None,
            "documents": 4,
            "cutoff": {
                "by": "top_n",
                "tokens": None,
                "tokens_estimated": False,
                "duplicates": [],
            },
            "results": [
                {
                    "rank": 1,
                    "index": 1,
                    "moved": 1,
                    "score": 0.5,
                    "truncated": False,
                    "chunked": False,
                    "passage": None,
                    "id": None,
                    "source": "notes.txt:2",
                    "text": "the panda is a bear",
                },
                {
                    "rank": 2,
                    "index": 2,
                    "moved": 1,
                    "score": 0.5,
                    "truncated": False,
                    "chunked": False,
                    "passage": None,
                    "id": None,
                    "source": "notes.txt:3",
                    "text": "what is a panda",
                },
            ],
        } == json.loads(done.stdout)

    def test_json_includes_the_facts_of_the_scores(self, notes, use):
        class Telling(FakeBackend):
            def score(self, query, documents):
                return Scores(
                    [3.0, 2.0, 1.0],
                    backend="who scored",
                    model="m",
                    truncated=[0],
                    windows={1: 3},
                    passages={1: Passage(0, 3)},
                    cached=1,
                    usage=Usage(tokens=7),
                )

        use(Telling(scale="logit"))
        facts = json.loads(run("rank", "q", notes.name, "--json").stdout)

        assert ("who scored", "m", 1) == (facts["backend"], facts["model"], facts["cached"])
        assert {"tokens": 7, "search_units": None} == facts["usage"]
        assert [(True, False, None), (False, True, [0, 3]), (False, False, None)] == [
            (item["truncated"], item["chunked"], item["passage"]) for item in facts["results"]
        ]

    @pytest.mark.parametrize("files", [[], ["-"]])
    def test_reads_standard_input(self, use, files):
        use(FakeBackend())
        done = run("rank", QUERY, *files, "-n", 1, input=LINES)

        assert "1\t+2\t1\t-:3\twhat is a panda\n" == done.stdout

    def test_spec_and_limits_are_passed_to_rerank(self, notes, monkeypatch):
        asked = []

        def load(spec):
            asked.append(spec)
            return FakeBackend()

        monkeypatch.setattr("rerank_plugins.result.load_backend", load)
        done = run("rank", QUERY, notes, "--backend", "rerank.toml", "--min-score", 0.5, "-n", 9)

        assert ["rerank.toml"] == asked
        assert 2 == len(done.stdout.splitlines())

    def test_the_key_of_the_text_is_an_option(self, tmp_path, use):
        use(FakeBackend())
        path = write(tmp_path / "x.jsonl", '{"text": "a", "body": "b"}\n')

        assert run("rank", "b", path, "--text-key", "body").stdout.endswith("\tb\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--min-score", 0.99], "no document scored at least 0.99 (3 scored)\n"),
            (["--top-n", 0], "--top-n 0 keeps no document\n"),
        ],
    )
    def test_exit_code_1_means_that_no_document_passed(self, notes, use, arguments, message):
        use(FakeBackend())
        done = run("rank", "zebra", notes, *arguments)

        assert (1, "", message) == (done.exit_code, done.stdout, done.stderr)

    def test_an_empty_file_has_nothing_to_keep(self, tmp_path, use):
        use(FakeBackend())
        empty = write(tmp_path / "x.txt", "")
        done = run("rank", QUERY, empty, "-", input="\n")
        as_json = run("rank", QUERY, empty, "--json")

        assert (1, "") == (done.exit_code, done.stdout)
        assert f"no documents in {empty}, standard input\n" == done.stderr
        assert 1 == as_json.exit_code
        assert [] == json.loads(as_json.stdout)["results"]

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConfigError("no such kind"), 2),
            (MissingDependencyError("run: pip install x"), 2),
            (UnsupportedInputError("document 1 is no text"), 3),
            (DataError("x.jsonl:1: not valid JSON"), 3),
            (BackendUnavailable("connection refused"), 4),
            (BackendTimeout("no answer in 5 s"), 4),
            (BackendOverloaded("too busy"), 4),
            (BackendRejected("unknown model"), 5),
            (AuthenticationError("wrong key"), 5),
            (InvalidResponse("2 scores for 3 documents"), 5),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
    )
    def test_each_error_is_one_line_and_has_its_exit_code(self, notes, use, error, code):
        use(FailingBackend(error))
        done = run("rank", QUERY, notes)

        assert (code, "", f"error: {error}\n") == (done.exit_code, done.stdout, done.stderr)

    @pytest.mark.parametrize(
        "arguments", [["--debug", "rank", QUERY], ["rank", QUERY, "--debug"]], ids=" ".join
    )
    def test_debug_shows_the_traceback(self, notes, use, arguments):
        use(FailingBackend(InvalidResponse("no scores")))
        done = run(*arguments, notes)

        assert 5 == done.exit_code
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith("error: no scores\n")

    def test_a_bug_is_not_hidden(self, notes, use):
        use(FailingBackend(ZeroDivisionError("a bug")))

        assert isinstance(run("rank", QUERY, notes).exception, ZeroDivisionError)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["rank"], "Missing argument"),
            (["rank", QUERY, "notes.txt", "--top-n", "many"], "valid integer"),
            (
                ["rank", QUERY, "notes.txt", "--file-format", "csv"],
                "'--file-format': 'csv' is not one of",
            ),
            (["rank", QUERY, "notes.txt", "--top-k", "3"], "write: --top-n 3\n"),
            (["rank", QUERY, "notes.txt", "--top-n", "-1"], "Invalid value for '--top-n'"),
            (
                ["rank", QUERY, "notes.txt", "--min-score", "nan"],
                "'--min-score': nan is not finite",
            ),
            (["rank", QUERY, "notes.txt", "--model", "a/b"], "write: --backend local:a/b\n"),
            (["rank", QUERY, "notes.txt", "-m", "a/b"], "write: --backend local:a/b\n"),
            (["rank", QUERY, "notes.txt", "--gpu"], "rank --help\n"),
            (["ranc"], "No such command"),
            (["rank", QUERY, "notes.txt", "--api-key", "hunter2"], "api_key_env=NAME"),
            (["serve", "--api-key", "hunter2"], "--api-keys-file FILE\n"),
            (["serve", "--api_key=hunter2"], "--api-keys-file FILE\n"),
            (
                ["serve", "--workers", "4"],
                "for several GPUs write the spec local:MODEL?device=cuda",
            ),
            (["serve", "--backend", "embedded"], "rerank-plugins serve embedded\n"),
            (["serve", "--model", "a/b"], "write the spec local:a/b\n"),
        ],
    )
    def test_wrong_use_has_exit_code_2(self, notes, use, arguments, message):
        use(FakeBackend())
        done = run(*arguments)

        assert (2, 1) == (done.exit_code, len(done.stderr.splitlines()))
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert "hunter2" not in done.stderr

    @pytest.mark.parametrize(("name", "reason"), [("gone.txt", "No such file"), (".", "directory")])
    def test_a_file_that_cannot_be_read_has_exit_code_3(self, notes, use, name, reason):
        use(FakeBackend())
        done = run("rank", QUERY, name)

        assert (3, 1) == (done.exit_code, len(done.stderr.splitlines()))
        assert done.stderr.startswith(f"error: can't read '{name}': ")
        assert reason in done.stderr

    def test_errors_name_options_as_on_the_command_line(self, notes, use):
        use(FakeBackend(scale="unknown"))
        done = run("rank", QUERY, notes, "--min-score", 0.5)

        assert done.stderr.startswith("error: --min-score 0.5 has no meaning")
        assert "leave --min-score out and cut with --top-n" in done.stderr

    def test_a_wrong_spec_has_exit_code_2(self, notes):
        done = run("rank", QUERY, notes, "--backend", "embeded")

        assert 2 == done.exit_code
        assert "unknown kind of backend 'embeded'; did you mean 'embedded'?" in done.stderr

    def test_a_blank_query_has_exit_code_3(self, notes, use):
        use(FakeBackend())

        assert 3 == run("rank", "  ", notes).exit_code

    def test_a_broken_line_has_exit_code_3(self, tmp_path, use):
        use(FakeBackend())
        path = write(tmp_path / "x.jsonl", '{"text": "a"}\n{')
        done = run("rank", QUERY, path)

        assert (3, "") == (done.exit_code, done.stdout)
        assert done.stderr.startswith(f"error: {path}:2: not valid JSON: ")
        assert 1 == len(done.stderr.splitlines())


class TestHelp:
    def test_no_command_shows_the_help(self):
        done = run()

        assert 0 == done.exit_code
        assert "doctor" in done.stdout

    def test_version(self):
        assert f"rerank-plugins {rerank_plugins.__version__}\n" == run("--version").stdout

    @pytest.mark.parametrize("arguments", [["--help"], ["rank", "-h"], ["doctor", "--help"]])
    def test_help_explains(self, arguments):
        done = run(*arguments)

        assert 0 == done.exit_code
        assert "Usage:" in done.stdout

    def test_brackets_are_shown(self, monkeypatch):
        """They look like markup, which help pages leave out."""
        monkeypatch.setenv("COLUMNS", "200")
        shown = run("serve", "--help").stdout

        assert "a table [server]" in shown
        for command in typer.main.get_command(app).commands.values():
            for parameter in command.params:
                assert not re.search(r"(?<!\\)\[[a-z]+\]", parameter.help or ""), parameter

    def test_starts_without_model_libraries(self):
        code = (
            "import sys, rerank_plugins.cli; "
            "print({m.partition('.')[0] for m in sys.modules} "
            "& {'torch', 'transformers', 'onnxruntime', 'numpy', 'tokenizers', 'httpx'})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )

        assert ("set()\n", "") == (done.stdout, done.stderr)


def process(*arguments, **options):
    """Run the real command in a process of its own, with the embedded model."""
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    environment |= {"RERANK_BACKEND": "embedded", **options.pop("env", {})}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


class TestProcess:
    def test_a_file_may_name_a_class_in_the_current_folder(self, tmp_path):
        """As an installed script too, whose first folder on the path is its own."""
        (tmp_path / "own_backend.py").write_text(
            "from rerank_plugins.testing import FakeBackend\n"
            "class Own(FakeBackend):\n"
            "    def __init__(self): super().__init__()\n"
        )
        (tmp_path / "own.toml").write_text('[backend]\nkind = "own_backend:Own"\n')
        root = str(Path(rerank_plugins.__file__).parents[1])
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-c", "from rerank_plugins.cli import main; main()"),
                *("rank", "panda", "-", "--backend", "own.toml"),
            ],
            input=b"a cat\na panda\n",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            timeout=60,
            check=False,
        )

        assert (0, b"") == (done.returncode, done.stderr)
        assert done.stdout.startswith(b"1\t+1\t1\t")

    def test_reranks_a_real_file(self, notes):
        done = process(
            "rank", "which animal eats bamboo?", "-", input=b"the stock market\na panda\n"
        )

        assert (0, b"") == (done.returncode, done.stderr)
        assert b"a panda" == done.stdout.splitlines()[0].split(b"\t")[-1]

    def test_a_closed_pipe_is_silent(self, tmp_path):
        path = write(tmp_path / "x.txt", "a panda in the forest\n" * 5_000)
        child = subprocess.Popen(
            [*COMMAND, "rank", "panda", str(path), "-b", "embedded", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        child.stdout.read(1)
        child.stdout.close()
        errors = child.stderr.read()
        child.stderr.close()

        assert (b"", 0) == (errors, child.wait(timeout=60))

    def test_pipes_carry_utf8_whatever_the_locale(self, tmp_path):
        path = write(tmp_path / "x.txt", "大熊猫 ▲\n")
        done = process(
            "rank",
            "panda",
            path,
            env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        )

        assert (0, b"") == (done.returncode, done.stderr)
        assert done.stdout.decode().endswith("大熊猫 ▲\n")

    def test_an_ascii_terminal_is_served(self, notes):
        code, shown = in_terminal(
            "rank", "panda", notes, env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        )

        assert 0 == code
        assert "the panda is a bear" in shown

    def test_a_terminal_gets_a_coloured_table(self, notes):
        code, shown = in_terminal("rank", "what is a panda?", notes)

        assert 0 == code
        assert "document" in shown.splitlines()[0]
        assert re.search(r"\x1b\[32m\s*▲\d", shown)
        assert re.search(r"\x1b\[31m\s*▼2", shown)
        assert "3 of 3 documents · " in shown

    def test_no_color_is_respected(self, notes):
        _, shown = in_terminal("rank", "what is a panda?", notes, env={"NO_COLOR": "1"})

        assert "▲" in shown
        assert not re.search(r"\x1b\[[\d;]*3\dm", shown)

    def test_a_narrow_terminal_cuts_the_text(self, tmp_path):
        path = write(tmp_path / "x.txt", "panda " * 500 + "\n")
        _, shown = in_terminal("rank", "panda", path, width=60)
        lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.splitlines()]

        assert 4 == len(lines)
        assert "…" in lines[2]
        assert all(len(line) <= 60 for line in lines)

    def test_ids_have_a_column(self, tmp_path):
        path = write(tmp_path / "x.jsonl", '{"_id": "doc-7", "text": "a panda"}\n')

        assert "doc-7" in in_terminal("rank", "panda", path)[1]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
    @pytest.mark.parametrize(
        "arguments", [["rank", "panda", "notes.txt"], ["doctor", "--no-score"]]
    )
    def test_a_full_disk_is_one_line(self, notes, arguments):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, check=False
            )

        assert b"error: can't write the output: No space left on device\n" == done.stderr
        assert 6 == done.returncode

    def test_a_terminal_shows_what_is_scored(self, notes):
        code, shown = in_terminal("rank", "panda", notes, streams=["stderr"])

        assert 0 == code
        assert "Scoring 3 documents" in shown

    def test_a_terminal_without_a_file_shows_what_to_do(self):
        main, side = pty.openpty()
        done = subprocess.run(
            [*COMMAND, "rank", "q"], stdin=side, capture_output=True, timeout=60, check=False
        )
        os.close(side)
        os.close(main)

        assert 2 == done.returncode
        assert b"give a file, or - to type the documents" in done.stderr

    def test_a_closed_input_is_an_error_that_says_what_to_do(self):
        """As in jobs that start without one."""
        shell = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "rank", "q"]
        done = subprocess.run(shell, capture_output=True, timeout=60, check=False)

        assert 2 == done.returncode
        assert b"give a file, or - to type the documents" in done.stderr

    def test_a_refused_connection_has_exit_code_4(self, notes):
        done = process("rank", "panda", notes, "-b", "tei+http://127.0.0.1:9")

        assert 4 == done.returncode
        assert done.stderr.startswith(b"error: ")
        assert 1 == len(done.stderr.splitlines())
