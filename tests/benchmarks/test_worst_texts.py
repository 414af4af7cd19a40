"""No text is dear by its shape: what the server does with it grows with its size, and no faster."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from tests.benchmarks.worst_texts import PIECES, STAGES, measure, text_of

LONG = STAGES[:-1]
"""Of the last one only the first 300 letters count."""


@pytest.mark.nightly
@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("stage", LONG, ids=lambda stage: stage.name)
def test_no_text_takes_more_than_30_ms_a_kilobyte(stage, name):
    """The dearest known takes 5; two marks that alternate once took 400, and eight times as much
    for eight times as many."""
    assert measure(stage, text_of(PIECES[name], 262_144), rounds=1) < 30
