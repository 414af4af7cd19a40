"""Real servers, as processes of their own."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx2 as httpx

KEY = "a-key-of-the-tests-0123"


def wait(url, process, log):
    deadline = time.monotonic() + 90
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@contextmanager
def server(folder, port):
    """Run a real server with the embedded model, and yield its process."""
    log = folder / f"{port}.log"
    config = folder / f"{port}.toml"
    config.write_text(
        '[backend]\nkind = "embedded"\n[server]\napi_keys_env = "RERANK_API_KEYS"\n'
        "trusted_proxies = ['127.0.0.1']\n"
    )
    command = [sys.executable, "-m", "rerank_plugins", "serve", str(config), "--port", str(port)]
    environment = {**os.environ, "RERANK_API_KEYS": f"tests:{KEY}"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        wait(f"http://127.0.0.1:{port}/readyz", process, log)
        yield process, log
    finally:
        process.kill()
        process.wait()
