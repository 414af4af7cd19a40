"""The contract suite, run over the test doubles themselves."""

from rerank_plugins import Backend
from rerank_plugins.testing import BackendContract, FakeBackend


class TestFakeBackend(BackendContract):
    picklable = True

    def make_backend(self) -> Backend:
        return FakeBackend()
