"""The end of a GGUF file: the weights of a checkpoint. Runs in llama.cpp's environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

__all__ = ["finish"]


def finish(writer: gguf.GGUFWriter, folder: Path, renamed: Callable[[str], str]) -> None:
    """Write the checkpoint's weights in float32, by llama.cpp's names, and close the file."""
    for name, weight in load_file(folder / "model.safetensors").items():
        writer.add_tensor(renamed(name), weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
