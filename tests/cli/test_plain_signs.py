"""What a terminal without Unicode shows."""

import pytest

from rerank_plugins.cli.plain_signs import ERRORS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("▲1 ▼12", "+1 -12"),
        ("✓ it works … first stage ↔ embedded", "+ it works ~ first stage <-> embedded"),
        ("\u22120.012 (p–q) τ", "-0.012 (p-q) tau"),
        ("熊猫 is fine", "?? is fine"),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1"])
def test_signs_become_plain_ones(text, shown, encoding):
    written = text.encode(encoding, ERRORS).decode(encoding)

    assert shown == written or "ascii" != encoding
    assert len(written.split()) == len(shown.split())
    if "▲" in text and encoding != "cp437":
        assert shown == written
