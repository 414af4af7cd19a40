"""Shared, fair and bounded batches for callers in any thread and any event loop."""

from rerank_plugins.scheduler.cost import estimated_tokens, fair_share
from rerank_plugins.scheduler.limit import BatchLimit
from rerank_plugins.scheduler.scheduler import Scheduler
from rerank_plugins.scheduler.suspension import ClientSuspended

__all__ = ["BatchLimit", "ClientSuspended", "Scheduler", "estimated_tokens", "fair_share"]
