"""Install the other contenders, each in its own environment.

python tests/benchmarks/install.py DIR [NAME ...]

DIR is then the value of `--peers`. What is not installed is left out of a run, and the page says
so. torch comes as pip is configured to find it; a CPU build is enough.
"""
# ruff: noqa: T201 - a script talks to its terminal

import argparse
import subprocess
import sys
import venv
from pathlib import Path

PINS = Path(__file__).parents[2] / ".ci" / "servers"
TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    "infinity": ["--no-deps", "--requirement", str(PINS / "infinity.txt")],
    "onnx": ["FlashRank==0.2.10", "fastembed==0.9.1"],
    "optimum": [TORCH, "sentence-transformers[onnx,openvino]==5.7.0", "openvino==2026.4.1"],
    # FlagEmbedding imports what transformers 5.24 has no more.
    "torch": [TORCH, "FlagEmbedding==1.4.2", "rerankers==0.10.0", "transformers<5.24"],
}


def main() -> None:
    """Install the environments that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description="Install rerankers to measure beside ours.")
    parser.add_argument("directory", type=Path, help="becomes the value of --peers")
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(ENVIRONMENTS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; valid: {', '.join(ENVIRONMENTS)}")
    for name in arguments.names or ENVIRONMENTS:
        folder = arguments.directory.resolve() / name
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *ENVIRONMENTS[name]], check=True)
        print(f"{name}: installed in {folder}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
