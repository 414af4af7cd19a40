"""A ModelScope hub on loopback, of one model and maybe the code of another: lists and files."""

import hashlib
from urllib.parse import parse_qsl, urlsplit

from rerank_plugins.testing import FakeResponse

MODEL = "iic/tiny-reranker"
COMMIT = "c" * 40


class ModelScopeHub:
    """Responds as `modelscope.cn/api/v1` does; `changes` maps a path's end to other responses."""

    def __init__(self, folder):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.files["onnx/model.onnx"] = b"not for us"
        self.others = {}
        """Other repositories' files, by `(id, revision)`."""
        self.fetched = []
        self.changes = {}

    def __call__(self, received):
        url = urlsplit(received.path)
        asked = dict(parse_qsl(url.query))
        for end, response in self.changes.items():
            if url.path.endswith(end):
                return response
        name, _, end = url.path.removeprefix("/api/v1/models/").partition("/repo")
        files = self.others.get((name, asked.get("Revision")))
        if name == MODEL and asked.get("Revision") in ("master", "v1", COMMIT):
            files = self.files
        if files is None or end not in ("", "/files"):
            return self._unknown()
        if end:
            listed = [self._entry(path, content) for path, content in files.items()]
            return FakeResponse({"Code": 200, "Success": True, "Data": {"Files": listed}})
        self.fetched.append(asked["FilePath"])
        return FakeResponse(files[asked["FilePath"]], content_type="application/octet-stream")

    @staticmethod
    def _unknown():
        return FakeResponse({"Code": 10010205001, "Success": False, "Message": "not found"}, 404)

    @staticmethod
    def _entry(name, content):
        return {
            "Path": name,
            "Name": name.rpartition("/")[2],
            "Type": "blob",
            "Size": len(content),
            "Sha256": hashlib.sha256(content).hexdigest(),
            "Revision": "a" * 40,
        }
