"""Which modules may read the wall clock, which can jump; intervals use a monotonic clock."""

import ast

import pytest

from tests.test_imports import PACKAGE

WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
WALL |= {f"datetime.{name}" for name in WALL if name.startswith("datetime")}
ALLOWED = {
    "backends/http/errors.py": "Retry-After may be a date",
    "evaluation/canary.py": "when it ran, as a timestamp for Prometheus",
    "wrappers/stores/sqlite.py": "a file outlives the process, and the clock that started with it",
}
"""Tokens are PyJWT's to check, life times in Redis are Redis's."""


def asks_for_the_time_of_day(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            if {alias.name for alias in node.names} & {"time", "time_ns"}:
                return True
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in WALL:
            return True
    return False


def test_only_the_listed_modules_read_the_wall_clock():
    callers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if asks_for_the_time_of_day(path.read_text(encoding="utf-8"))
    }

    assert set(ALLOWED) == callers


@pytest.mark.parametrize(
    "source",
    ["import time\ntime.time()", "from time import time", "f(clock=time.time)", "datetime.now()"],
)
def test_every_way_to_read_the_wall_clock_is_detected(source):
    assert asks_for_the_time_of_day(source)
