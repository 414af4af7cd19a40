"""Install rerank servers for the tests, each in a virtual environment of its own.

    python tests/integration/servers/install.py DIR [NAME ...]

What is installed is pinned, with everything it needs, in `.ci/servers/NAME.txt`. A server that is
already there as pinned is left alone, so running this again is quick.
"""
# ruff: noqa: T201 - a script talks to its terminal

import argparse
import subprocess
import sys
import time
import venv
from pathlib import Path

PINS = Path(__file__).parents[3] / ".ci" / "servers"
NAMES = sorted(path.stem for path in PINS.glob("*.txt"))


def install(name: str, folder: Path) -> None:
    """Bring the virtual environment `folder` to the pins of the server `name`."""
    pins = PINS / f"{name}.txt"
    stamp = folder / "pins.txt"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        print(f"{name}: already installed in {folder}")
        return
    started = time.monotonic()
    venv.create(folder, clear=True, with_pip=True)
    # The pins are complete. Without --no-deps, Xinference would bring a torchvision that breaks it.
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "--no-deps"]
    subprocess.run([*pip, "--disable-pip-version-check", "--requirement", pins], check=True)
    stamp.write_text(pins.read_text())
    print(f"{name}: installed in {folder}, {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Install the servers that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description="Install rerank servers for the tests.")
    parser.add_argument("directory", type=Path, help="becomes the value of RERANK_TEST_SERVERS")
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(NAMES)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such server: {', '.join(sorted(unknown))}; valid: {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        install(name, arguments.directory.resolve() / name)
    folder = arguments.directory
    print(f"now run: RERANK_TEST_SERVERS={folder} pytest tests/integration/servers")


if __name__ == "__main__":
    sys.exit(main())
