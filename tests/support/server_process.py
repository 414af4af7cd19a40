"""The command `serve` in a process of its own, for tests of its process."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from tests.support.places import ROOT

EMBEDDED = '[backend]\nkind = "embedded"\n'
PACKAGE = ("-m", "rerank_plugins")


def fetch(url, path="/readyz", body=None):
    """Return the status and the parsed reply."""
    request = urllib.request.Request(url + path, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def wait_for_status(url, status, seconds=60.0):
    deadline = time.monotonic() + seconds
    while (response := fetch(url))[0] != status:
        assert time.monotonic() < deadline, response
        time.sleep(0.02)


@contextmanager
def server_process(folder, *flags, table="", config=EMBEDDED, program=PACKAGE, env=None):
    """Give the process and the address of a server, by default of the embedded model."""
    (folder / "rerank.toml").write_text(f"{config}[server]\n{table}")
    command = [sys.executable, *program, "serve", "rerank.toml", "--port", "0"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *flags], cwd=folder, stderr=output, env={**os.environ, **(env or {})}
        )
    try:
        deadline = time.monotonic() + 60
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, address[0]
    finally:
        process.kill()
        process.wait()


PATIENT = "queue_seconds = 100.0\nrequest_seconds = 100.0\n"
"""Settings of a server that a slow machine makes refuse nothing."""


def double_process(folder, kind, *, program=PACKAGE, **options):
    """Give the process and the address of a patient server of a double of some kind."""
    lines = [f"{name} = {value}\n" for name, value in options.items()]
    config = f'[backend]\nkind = "tests.support.doubles:{kind}"\n{"".join(lines)}'
    env = {"PYTHONPATH": str(ROOT)}
    return server_process(folder, table=PATIENT, config=config, program=program, env=env)
