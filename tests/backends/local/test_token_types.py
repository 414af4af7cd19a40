"""Token types that a tokenizer makes, but that its model is not told."""

import json
import shutil

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

from rerank_plugins import load_backend
from rerank_plugins.bench.reference import ReferenceBackend

ASKED = ("what is a panda?", ["The giant panda is a bear.", "hi", "Paris is in France."])


@pytest.fixture
def untold(checkpoint, tmp_path):
    """Return a function that copies a checkpoint and leaves types out of what its model gets."""

    def make(kind):
        folder = tmp_path / kind
        shutil.copytree(checkpoint(kind), folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config |= {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.mark.parametrize(
    "options", ["engine=onnx", "engine=torch&attention=packed", "engine=torch&attention=padded"]
)
def test_types_are_not_passed_to_a_model_that_does_not_take_them(untold, options):
    folder = untold("bert")
    with (
        load_backend(f"local:{folder}?{options}") as backend,
        ReferenceBackend(str(folder)) as reference,
    ):
        assert pytest.approx(reference.score(*ASKED), abs=1e-5) == backend.score(*ASKED)
