"""Speed of backends: texts, the clock, the reference, the search for settings."""

from rerank_plugins.bench.speed import Speed, compare_speed
from rerank_plugins.bench.workload import Mix, Shape, Workload

__all__ = ["Mix", "Shape", "Speed", "Workload", "compare_speed"]
