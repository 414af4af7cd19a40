"""A scheduler over the `process` of the test's own module."""

import pytest

from rerank_plugins.scheduler import Scheduler


@pytest.fixture
def scheduler(process):
    scheduler = Scheduler(process)
    yield scheduler
    scheduler.close()
