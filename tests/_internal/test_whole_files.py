"""Files are written whole, or stay what they were."""

import errno
import os
import stat
from pathlib import Path

import pytest

from rerank_plugins._internal.whole_files import write_whole


@pytest.fixture
def full(monkeypatch):
    """Let the disk be full once this many files are complete."""

    def fill(files=0):
        left = [files]
        original = os.fsync

        def fsync(number):
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            left[0] -= 1
            original(number)

        monkeypatch.setattr(os, "fsync", fsync)

    return fill


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_and_one_that_was_there_are_written(tmp_path):
    (tmp_path / "old").write_text("before")
    write_whole({tmp_path / "old": "é", tmp_path / "new": "n"})

    assert ["new", "old"] == names(tmp_path)
    assert "é".encode() == (tmp_path / "old").read_bytes()


def test_what_was_there_stays_when_the_disk_is_full(tmp_path, full):
    (tmp_path / "old").write_text("before")
    full()
    with pytest.raises(OSError, match="No space left"):
        write_whole({tmp_path / "old": "after"})

    assert ["old"] == names(tmp_path)
    assert "before" == (tmp_path / "old").read_text()


def test_of_several_files_all_stay_when_the_last_does_not_fit(tmp_path, full):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files[:2]:
        file.write_text("before")
    full(files=2)
    with pytest.raises(OSError, match="No space left"):
        write_whole(dict.fromkeys(files, "after"))

    assert ["a", "b"] == names(tmp_path)
    assert ["before", "before"] == [file.read_text() for file in files[:2]]


def test_links_and_permissions_stay(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_whole({tmp_path / "link": "after"})

    assert (tmp_path / "link").is_symlink()
    assert "after" == (tmp_path / "real").read_text()
    assert 0o640 == stat.S_IMODE((tmp_path / "real").stat().st_mode)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    write_whole({tmp_path / "new": ""})
    other, new = ((tmp_path / name).stat().st_mode for name in ("other", "new"))

    assert other == new


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="writes to it")
def test_what_is_no_file_is_written_as_it_comes(capfd):
    write_whole({Path("/dev/stdout"): "text"})

    assert "text" == capfd.readouterr().out


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_whole({tmp_path / "none" / "file": ""})
