"""A ModelScope hub on loopback, of one model: its listing, and its files."""

import hashlib
from urllib.parse import parse_qsl, urlsplit

from rerank_plugins.testing import FakeResponse

MODEL = "iic/tiny-reranker"


class ModelScopeHub:
    """Responds as `modelscope.cn/api/v1` does; `changes` maps a path's end to other responses."""

    def __init__(self, folder):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.files["onnx/model.onnx"] = b"not for us"
        self.fetched = []
        self.changes = {}

    def __call__(self, received):
        url = urlsplit(received.path)
        asked = dict(parse_qsl(url.query))
        for end, response in self.changes.items():
            if url.path.endswith(end):
                return response
        if asked.get("Revision") not in ("master", "v1"):
            return self._unknown()
        if url.path == f"/api/v1/models/{MODEL}/repo/files":
            listed = [self._entry(name, content) for name, content in self.files.items()]
            return FakeResponse({"Code": 200, "Success": True, "Data": {"Files": listed}})
        if url.path == f"/api/v1/models/{MODEL}/repo":
            self.fetched.append(asked["FilePath"])
            content = self.files[asked["FilePath"]]
            return FakeResponse(content, content_type="application/octet-stream")
        return self._unknown()

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
