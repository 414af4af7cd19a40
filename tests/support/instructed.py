"""A backend that takes instructions."""

from rerank_plugins import Query
from rerank_plugins.testing import FakeBackend


class InstructedBackend(FakeBackend):
    """Scores by the query's text, and remembers the instruction of each request."""

    instructions = True

    def __init__(self, **options):
        super().__init__(**options)
        self.given = []

    def score(self, query, documents):
        is_plain = isinstance(query, str)
        self.given.append(None if is_plain else query.instruction)
        return super().score(query if is_plain else query.text, documents)

    def score_many(self, requests):
        return [self.score(query, documents) for query, documents in requests]

    async def ascore(self, query, documents):
        return self.score(query, documents)


def asked(text, instruction="find bears"):
    """Return a query with an instruction of its own."""
    return Query(text, instruction=instruction)
