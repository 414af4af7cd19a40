"""HTTPBackend against a real server on loopback, in every dialect and every kind of failure."""

import pytest
from endpoint import Answer, Endpoint, score_of, speak

from rerank_plugins.backends.dialects import DIALECTS
from rerank_plugins.backends.http import HTTPBackend
from rerank_plugins.testing import BackendContract


class TestContract(BackendContract):
    """Every dialect keeps the contract, in scores on every document."""

    @pytest.fixture(autouse=True, params=sorted(DIALECTS))
    def _server(self, request):
        with Endpoint(speak(request.param)) as endpoint:
            self.dialect, self.endpoint = request.param, endpoint
            yield

    def make_backend(self):
        model = "m" if DIALECTS[self.dialect].needs_model else None
        return HTTPBackend(self.endpoint.url, dialect=self.dialect, model=model)
