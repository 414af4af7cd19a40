"""The unit: known to systemd, and closed."""

import re
import shutil

import pytest

from rerank_plugins.server.settings import ServerSettings
from tests.integration.deploy.recipes import DEPLOY, run

UNIT = DEPLOY / "systemd" / "rerank@.service"


@pytest.fixture
def instance(tmp_path):
    """The unit as systemd would start it, of a program that is here."""
    text = UNIT.read_text(encoding="utf-8")
    program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)[1]
    file = tmp_path / "rerank@8787.service"
    file.write_text(text.replace(program, shutil.which("true")), encoding="utf-8")
    return file


def test_systemd_knows_every_line(instance):
    assert run("systemd-analyze", "verify", "--man=no", instance).strip() == ""


def test_systemds_exposure_score_is_low(instance):
    """On its scale 10 is open and 0 is closed; what is left is the network it serves."""
    run(
        *("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager"), instance
    )


def test_the_stop_timeout_exceeds_the_drain():
    settings = ServerSettings()
    seconds = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)[1])

    assert seconds >= settings.shutdown_delay + settings.drain_seconds + 5
