"""The texts that speed is measured with."""

import statistics

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.bench.workload import Shape, Workload


def lengths(mix):
    (request,) = Workload(mix).requests(Shape(1, 4000))
    return sorted(len(document.split()) for document in request[1])


def test_natural_documents_are_as_long_as_paragraphs():
    word_counts = lengths("natural")

    assert 34 <= word_counts[0]
    assert 480 >= word_counts[-1]
    assert statistics.median(word_counts) == pytest.approx(143, rel=0.05)
    assert statistics.mean(word_counts) == pytest.approx(160, rel=0.05)


def test_skewed_documents_are_short_or_long():
    word_counts = lengths("skewed")

    assert 0.58 == pytest.approx(sum(n <= 52 for n in word_counts) / len(word_counts), abs=0.03)
    assert 0.4 == pytest.approx(sum(n >= 300 for n in word_counts) / len(word_counts), abs=0.03)


def test_equal_seeds_give_equal_texts():
    shape = Shape(2, 3)

    assert Workload(seed=1).requests(shape) == Workload(seed=1).requests(shape)
    assert Workload(seed=1).requests(shape) != Workload(seed=2).requests(shape)


def test_documents_do_not_repeat():
    workload = Workload()
    documents = [text for _, texts in workload.requests(Shape(20, 50)) for text in texts]

    assert 1000 == len(set(documents))


def test_given_texts_are_used():
    requests = Workload(texts=["a", "b"], query="c").requests(Shape(1, 50))

    assert "c" == requests[0][0]
    assert {"a", "b"} == set(requests[0][1])


@pytest.mark.parametrize(
    ("text", "shape"), [("1x20", Shape(1, 20)), ("64×50", Shape(64, 50)), ("2X3", Shape(2, 3))]
)
def test_shapes_are_read(text, shape):
    assert shape == Shape.parse(text)
    assert shape == Shape.parse(str(shape))


@pytest.mark.parametrize("text", ["", "20", "1x", "ax2", "0x5", "-1x2"])
def test_an_invalid_shape_is_refused(text):
    with pytest.raises(ConfigError, match="shape"):
        Shape.parse(text)


def test_an_unknown_mix_is_refused():
    with pytest.raises(ConfigError, match="unknown mix 'skew'; valid: natural, skewed"):
        Workload("skew")
