"""Measure the torch engine on one GPU: `python tests/benchmarks/gpu.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from tests.benchmarks.gpu_suite import main  # noqa: E402 - only found by the line above

if __name__ == "__main__":
    sys.exit(main())
