"""Measure, write the results as JSON, print them: `python tests/benchmarks/run.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from tests.benchmarks.suite import main  # noqa: E402 - only found by the line above

if __name__ == "__main__":
    sys.exit(main())
