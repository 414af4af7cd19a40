"""One reader of TOML files, whose errors are ours."""

import pytest

from rerank_plugins import ConfigError
from rerank_plugins._internal.toml import read_toml


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_are_read_with_and_without_a_byte_order_mark(tmp_path, mark):
    file = tmp_path / "rerank.toml"
    file.write_bytes(mark + '[backend]\nkind = "嵌入"\n'.encode())

    assert {"backend": {"kind": "嵌入"}} == read_toml(file)
    assert {"backend": {"kind": "嵌入"}} == read_toml(str(file))


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path):
    (tmp_path / "broken.toml").write_text("[backend")
    (tmp_path / "deep.toml").write_text("x = " + "[" * 10_000 + "]" * 10_000)
    (tmp_path / "latin.toml").write_bytes(b'x = "\xff"')
    (tmp_path / "powershell.toml").write_bytes("x = 1".encode("utf-16"))
    for name, message in {
        "missing.toml": "can't read .*missing.toml': No such file",
        "": "can't read .*: Is a directory",
        "broken.toml": "broken.toml' is not valid TOML",
        "deep.toml": "deep.toml' is not valid TOML: it is nested too deeply",
        "latin.toml": "latin.toml' is not valid TOML: it is not UTF-8; save it as UTF-8",
        "powershell.toml": "is not valid TOML: it is UTF-16; save it as UTF-8",
        "nul\0.toml": "is not valid TOML",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_toml(tmp_path / name)
