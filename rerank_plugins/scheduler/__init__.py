"""Shared, fair and bounded batches for callers in any thread and any event loop."""

from rerank_plugins.scheduler.cost import estimated_tokens
from rerank_plugins.scheduler.scheduler import Scheduler

__all__ = ["Scheduler", "estimated_tokens"]
