"""The fenced blocks of a page, and how the tests run them.

`python` blocks of a page run in order, in one namespace and an empty folder. `toml` blocks are
loaded as a configuration. In `bash` blocks the commands of this package run. Hub models that
the pages name are tiny checkpoints in a cache that the test makes, so nothing is downloaded.
"""

import re
import shlex
import subprocess

from markdown_it import MarkdownIt
from typer.testing import CliRunner

from rerank_plugins import load_backend
from rerank_plugins.cli import app

HUB_MODEL = re.compile(r"local:([\w.-]+/[\w.-]+)|model\"? ?[=:] ?\"([\w-]+/[\w.-]+)\"")


def blocks(page):
    """Yield (language, code, line) of each fenced block."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info.partition(" ")[0], token.content, token.map[0] + 1


def run_command(command):
    """Run a command of this package; return its exit code and what it prints.

    A pipeline runs in a shell; a command on its own runs in this process.
    """
    if "|" in command:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    return result.exit_code, result.stdout, f"{result.stderr}{result.exception or ''}"


def run_commands(code):
    """Run the `rerank-plugins` commands of a block; CI installs and starts services."""
    for line in re.sub(r"\\\n", "", code).splitlines():
        command = line.rpartition("&& ")[2]
        if re.match(r"(.*\| *)?rerank-plugins ", command):
            status, printed, errors = run_command(command)
            assert status in {0, 1}, f"{command}\n{printed}{errors}"
            assert printed, command
        else:
            assert shlex.split(command, comments=True) is not None


def run_blocks(page, hub, workspace):
    """Run all blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in HUB_MODEL.finditer(text):
        hub(match[1] or match[2])
    namespace = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        if language == "python":
            source = "\n" * line + code  # errors then tell the line of the page
            exec(compile(source, str(page), "exec"), namespace)
        elif language == "toml":
            (workspace / "rerank.toml").write_text(code, encoding="utf-8")
            load_backend("rerank.toml")
        elif language == "bash":
            run_commands(code)
        else:
            assert language in {"text", "json", "html", "mermaid"}, f"{page.name}:{line}"
