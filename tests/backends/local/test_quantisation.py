"""Checkpoints that come quantised: read as they are meant, or refused by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch
import transformers
from safetensors.torch import load_file, save_file

from rerank_plugins import ConfigError, MissingDependencyError
from rerank_plugins.backends.local import quantisation
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.quantisation import read_quantisation

QUERY = "what is a panda?"
DOCUMENTS = ["The giant panda is a bear species endemic to China.", "hi", "Paris " * 40]


def scored(folder: str | Path, **options: Any) -> tuple[list[float], dict[str, object]]:
    with LocalBackend(folder, device="cpu", scale="logit", **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS)), backend.describe()


def with_config(source: str, target: Path, **values: object) -> Path:
    """Copy a checkpoint, and set values of its `config.json`."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **values}))
    return target


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def compressed(form: str) -> dict[str, object]:
    """What compressed-tensors writes of weights in 8 bits."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["classifier", "bert.pooler.dense"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


@pytest.mark.parametrize(("bits", "kind"), [(8, "bert"), (4, "bert"), (4, "qwen3")])
def test_bitsandbytes(
    bits: int, kind: str, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra `bitsandbytes`")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint(kind),
        device_map={"": "cpu"},
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_8bit=bits == 8,
            load_in_4bit=bits == 4,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
        ),
    ).eval()
    folder = tmp_path / "small"
    shutil.copytree(checkpoint(kind), folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits, facts = scored(folder)

    with torch.inference_mode():
        expected = [
            model(**tokenizer(QUERY, each, return_tensors="pt")).logits.item() for each in DOCUMENTS
        ]
    assert logits == pytest.approx(expected, abs=1e-5)
    assert logits != pytest.approx(scored(checkpoint(kind), engine="torch")[0], abs=1e-3)
    assert ("torch", f"bitsandbytes, {bits} bits") == (facts["engine"], facts["quantisation"])
    assert "which only the torch engine can read" in str(facts["engine_chosen"])
    with pytest.raises(ConfigError, match=r"\(bitsandbytes, . bits\), which only the torch engine"):
        scored(folder, engine="onnx")
    with pytest.raises(ConfigError, match="quantised already"):
        scored(folder, dtype="int4")


def test_compressed_tensors(checkpoint: Callable[[str], str], tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import (  # noqa: PLC0415 - it may be missing
        pack_to_int32,
    )

    rounded, packed = tmp_path / "rounded", tmp_path / "packed"
    shutil.copytree(checkpoint("bert"), rounded)
    with_config(checkpoint("bert"), packed, quantization_config=compressed("pack-quantized"))

    def change(tensors: dict[str, Any], *, pack: bool) -> dict[str, Any]:
        changed = {}
        for name, each in tensors.items():
            if "encoder" not in name or each.ndim == 1:
                changed[name] = each
                continue
            scale = each.abs().amax(1, keepdim=True) / 127
            whole = (each / scale).round().to(torch.int8)
            if not pack:
                changed[name] = whole * scale
                continue
            stem = name.removesuffix("weight")
            changed[f"{stem}weight_packed"] = pack_to_int32(whole, 8)
            changed[f"{stem}weight_scale"] = scale
            changed[f"{stem}weight_shape"] = torch.tensor(each.shape)
        return changed

    edit_weights(rounded, lambda tensors: change(tensors, pack=False))
    edit_weights(packed, lambda tensors: change(tensors, pack=True))
    logits, facts = scored(packed)

    assert logits == pytest.approx(scored(rounded, engine="torch")[0], abs=1e-5)
    assert "compressed-tensors, 8 bits" == facts["quantisation"]


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "hqq", "bits": 4}, "hqq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "fp8"}, "accelerate"),
        ({"quant_method": "compressed-tensors"}, "compressed_tensors"),
    ],
)
def test_the_package_that_is_missing_is_named(
    settings: dict[str, object],
    package: str,
    checkpoint: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = with_config(checkpoint("bert"), tmp_path / "small", quantization_config=settings)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        quantisation.importlib.util,  # type: ignore[attr-defined]
        "find_spec",
        lambda name, *rest: None if name == package else find(name, *rest),
    )

    with pytest.raises(MissingDependencyError, match=f"`{package}`, which reads them"):
        scored(folder, engine="torch")


def test_what_transformers_itself_misses_is_told(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """Of methods whose packages this package does not list."""
    if importlib.util.find_spec("vptq") is not None:
        pytest.skip("vptq is installed")
    settings = {"quant_method": "vptq"}
    folder = with_config(checkpoint("bert"), tmp_path / "small", quantization_config=settings)

    with pytest.raises(MissingDependencyError, match=r"\(vptq\), and what reads them is not"):
        scored(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantization_config": {"quant_method": "tomorrow"}}, "quantised by 'tomorrow'"),
        ({"text_config": {"quantization_config": {"quant_method": "x"}}}, "quantised by 'x'"),
        ({"quantization_config": {"bits": 4}}, "names no `quant_method`"),
        ({"quantization_config": "gptq"}, "quantization_config='gptq'"),
        ({"compression_config": {"format": "int-quantized"}}, "`compression_config`"),
    ],
)
def test_no_quantisation_is_ignored(
    values: dict[str, object], message: str, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """transformers skips a method that it doesn't know, with a warning."""
    folder = with_config(checkpoint("bert"), tmp_path / "small", **values)

    with pytest.raises(ConfigError, match=message):
        scored(folder, engine="torch")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_weights_in_few_bits_need_a_word_on_how_to_read_them(
    dtype: torch.dtype, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """Both engines would take the numbers as they stand."""
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "small"))
    name = "bert.encoder.layer.0.output.dense.weight"
    edit_weights(folder, lambda all_: {**all_, name: (all_[name] * 100).abs().to(dtype)})

    with pytest.raises(ConfigError, match=f"holds '{name}' in .*no `quantization_config`"):
        resolve(str(folder))


def test_a_way_to_pack_that_is_not_read_is_told(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """Weights that are missing by name are not those of an untrained model."""
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors")
    folder = with_config(
        checkpoint("bert"), tmp_path / "small", quantization_config=compressed("pack-quantized")
    )

    with pytest.raises(ConfigError, match=r"in a way that transformers .* does not read"):
        scored(folder)


@pytest.mark.parametrize("bits", [[4], {}, "4", None, True, 1.5])
def test_bits_that_are_no_number_are_not_told(bits: object) -> None:
    config = compressed("pack-quantized")
    config["config_groups"] = {name: {"weights": {"num_bits": bits}} for name in "ab"}
    found = read_quantisation("m", {"quantization_config": config}, [])

    assert "compressed-tensors" == str(found)
