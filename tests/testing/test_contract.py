"""The contract suite does not alter the class under test."""

from rerank_plugins import load_backend
from rerank_plugins.testing import BackendContract
from rerank_plugins.wrappers.fallback import FallbackBackend


class Chain(BackendContract):
    def make_backend(self):
        return FallbackBackend([load_backend("embedded")])


def test_attributes_of_a_class_keep_their_order():
    before = list(vars(FallbackBackend))
    Chain().test_identity_is_cheap()

    assert before == list(vars(FallbackBackend))
