"""The limit of open files: raised, or kept."""

import resource
import sys

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server import ServerSettings
from rerank_plugins.server.connection_pressure import spare_connections
from rerank_plugins.server.open_files import within_open_files


class Limits:
    """Stands in for the system."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft, hard):
        self.limits = soft, hard

    def getrlimit(self, _):
        return self.limits

    def setrlimit(self, _, limits):
        self.limits = limits


@pytest.fixture
def limited(monkeypatch):
    def limit(soft, hard):
        limits = Limits(soft, hard)
        monkeypatch.setitem(sys.modules, "resource", limits)
        return limits

    return limit


@pytest.mark.parametrize("hard", [100_000, resource.RLIM_INFINITY])
def test_a_low_limit_is_raised_where_the_system_allows_it(limited, hard):
    limits = limited(256, hard)
    settings = ServerSettings(max_connections=4096)

    assert (settings, 512) == within_open_files(settings)
    assert 4096 + 64 + 4 * 512 + 64 == limits.limits[0]
    assert hard == limits.limits[1]


@pytest.mark.parametrize("hard", [256, 512, 1024, 4096])
def test_fewer_connections_fit_a_limit_that_stays(limited, hard, caplog):
    limited(hard, hard)
    settings, accepted = within_open_files(ServerSettings(max_connections=4096))
    connections = settings.max_connections

    assert connections // 8 == accepted
    assert hard * 0.45 < connections < hard
    assert connections + spare_connections(connections) + 4 * accepted + 64 <= hard
    assert f"at most {connections} connections instead of 4096" in caplog.text


def test_a_limit_that_is_high_enough_stays(limited, caplog):
    limits = limited(100_000, 100_000)
    within_open_files(ServerSettings())

    assert (100_000, 100_000) == limits.limits
    assert not caplog.text


def test_a_few_connections_fit_a_low_limit(limited, caplog):
    limited(512, 512)
    settings = ServerSettings(max_connections=100)

    assert (settings, 12) == within_open_files(settings)
    assert not caplog.text
