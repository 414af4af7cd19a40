"""Lines and JSON objects of files, as documents and datasets both read them."""

import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rerank_plugins import DataError
from rerank_plugins._internal.text_files import id_of, read_lines, read_objects, text_of

LINES = "\ufeffa\r\n\n \nb\u2028c\n".encode()


def test_lines_lose_their_ends_and_blank_ones_are_skipped(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(LINES)

    assert [(f"{path}:1", "a"), (f"{path}:4", "b\u2028c")] == list(read_lines(path))


def test_gzipped_files_are_decompressed(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(LINES))

    assert ["a", "b\u2028c"] == [text for _, text in read_lines(path)]


def test_a_dash_means_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(LINES)))

    assert [("-:1", "a"), ("-:4", "b\u2028c")] == list(read_lines(Path("-")))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.txt", b"a\n\xff\n", r"x\.txt:2: not UTF-8 text \(byte 1\)"),
        ("x.gz", b"no gzip", r"can't read .*x\.gz"),
        ("x.gz", gzip.compress(b"a\n" * 99, mtime=0)[:-9], r"can't read .*x\.gz"),
    ],
)
def test_a_file_that_cant_be_read_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(read_lines(tmp_path / name))


def test_a_folder_cant_be_read(tmp_path):
    with pytest.raises(DataError, match="can't read"):
        list(read_lines(tmp_path))


def test_objects_know_their_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"b": 2}\n')

    assert [(f"{path}:1", {"a": 1}), (f"{path}:3", {"b": 2})] == list(read_objects(path))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"text": "a"}, "a"),
        ({"text": "a", "title": "T"}, "T\na"),
        ({"text": None, "content": "a"}, "a"),
        ({"text": None, "title": "T"}, "T"),
        ({"title": "T"}, "T"),
        ({"text": "", "content": "a"}, ""),
        ({"text": "a", "title": None}, "a"),
    ],
)
def test_the_text_of_an_object(fields, text):
    assert text == text_of(fields, "x:1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body": "a"}, "x:1: found no text under text, .* or title, out of: body"),
        ({"title": ""}, "x:1: found no text"),
        ({"text": None}, "x:1: `text` is null, not a string"),
        ({"text": ["a"]}, "x:1: `text` is an array, not a string"),
        ({"text": "a", "title": 5}, "x:1: `title` is a number, not a string"),
        ({"title": 5}, "x:1: `title` is a number, not a string"),
        ({"text": "\ud800"}, "x:1: the text holds a lone surrogate"),
    ],
)
def test_an_object_without_a_usable_text_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        text_of(fields, "x:1")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"_id": "a", "id": "b"}, "a"),
        ({"_id": None, "id": 7}, "7"),
        ({"id": ""}, None),
        ({"id": True}, None),
        ({}, None),
    ],
)
def test_the_id_of_an_object(fields, name):
    assert name == id_of(fields)
