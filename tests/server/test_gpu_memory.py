"""A share of a GPU's memory is a limit of the process that has the model."""

import os
from functools import partial

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
pytest.importorskip("torch", reason="needs the extra `local`")

from rerank_plugins import load_backend
from rerank_plugins.server.isolation import isolate, model_processes
from rerank_plugins.server.settings import ServerSettings


def with_a_gpu(record, backend):
    """Let this process see a GPU, and record the limit that torch gives its allocator.

    The model is loaded onto the CPU all the same: there is no GPU.
    """
    import torch  # noqa: PLC0415  # only in the process of the model

    from rerank_plugins.backends.local.torch import engine as torch_engine  # noqa: PLC0415

    load_model = torch_engine.load_model

    def load_here(checkpoint, device, dtype, **how):
        assert device == torch.device("cuda")
        assert record.exists(), "the limit must stand before the model takes memory"
        return load_model(checkpoint, torch.device("cpu"), dtype, **how)

    def limit(fraction, number):
        record.write_text(f"process {os.getpid()}: {fraction} of GPU {number}")

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.memory._lazy_init = lambda: None
    torch._C._cuda_setMemoryFraction = limit
    torch_engine.load_model = load_here


@pytest.mark.slow  # loads torch in two processes
def test_each_model_of_a_chain_gets_its_own_limit(checkpoint, tmp_path):
    model = {"kind": "local", "model": checkpoint("bert"), "engine": "torch", "dtype": "float32"}
    chain = load_backend(
        {
            "backend": {**model, "gpu_memory_fraction": 0.5},
            "fallback": [{**model, "gpu_memory_fraction": 0.25}],
        }
    )
    records, expected = [], []
    with isolate(chain, ServerSettings()) as isolated:
        for process, fraction in zip(model_processes(isolated), (0.5, 0.25), strict=True):
            records.append(tmp_path / str(fraction))
            process._prepare = partial(with_a_gpu, records[-1])
            assert len(process.score("what is a panda?", ["A bear.", "A city."])) == 2
            expected.append(f"process {process.process_id}: {fraction} of GPU 0")

    assert expected == [file.read_text() for file in records]
