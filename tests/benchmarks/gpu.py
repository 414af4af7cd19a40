"""Measure the torch engine on one GPU: `python tests/benchmarks/gpu.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the modules are `benchmarks.…`, as in the tests

from benchmarks.gpu_suite import main  # noqa: E402 - only found by the line above

if __name__ == "__main__":
    sys.exit(main())
