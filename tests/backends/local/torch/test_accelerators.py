"""Accelerators of any kind, as torch tells of them; none of them is here, so torch is faked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch

from rerank_plugins.backends.local import select
from rerank_plugins.backends.local.torch import accelerators
from rerank_plugins.backends.local.torch.accelerators import (
    choose_devices,
    free_cache,
    full_name,
    memory_of,
)
from rerank_plugins.backends.local.torch.batch_size import _DeviceMemory
from rerank_plugins.errors import ConfigError

GIB = 1 << 30


@pytest.fixture(params=["xpu", "npu", "hpu", "mtia"])
def kind(request, monkeypatch):
    """Let torch say that there are two accelerators of a kind, which compute."""
    names = {"npu": "privateuseone"}
    name = names.get(request.param, request.param)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(name))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(accelerators, "_computes", lambda device: device.type == name)
    return name


def test_the_accelerator_that_torch_has_is_taken(kind):
    assert choose_devices("auto") == [torch.device(kind)]
    assert choose_devices(f"{kind}:0,{kind}:1") == [torch.device(kind, 0), torch.device(kind, 1)]


def test_all_that_is_there_is_listed_for_what_is_not(kind):
    with pytest.raises(ConfigError, match=rf"'cuda' is not available here; .*'{kind}:1', 'cpu'\]"):
        choose_devices("cuda")


def test_an_accelerator_that_does_not_compute_is_left_alone(kind, monkeypatch):
    monkeypatch.setattr(accelerators, "_computes", lambda _: False)
    assert choose_devices("auto") == [torch.device("cpu")]
    with pytest.raises(ConfigError, match=f"can't compute on device '{kind}'"):
        choose_devices(kind)


def test_apples_gpu_is_taken_only_where_it_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_devices("auto") == [torch.device("cpu")]
    assert choose_devices("mps") == [torch.device("mps")]


def test_devices_that_nobody_measured_say_so():
    assert full_name(torch.device("cpu")) == "cpu"
    assert full_name(torch.device("xpu:1")) == "xpu:1 (not measured by this package)"


def test_the_memory_of_a_device_is_told_by_its_module(monkeypatch):
    emptied = []
    module = SimpleNamespace(
        empty_cache=lambda: emptied.append(True),
        max_memory_allocated=lambda _: 3 * GIB,
        mem_get_info=lambda _: (6 * GIB, 16 * GIB),
        memory_allocated=lambda _: 2 * GIB,
        memory_reserved=lambda _: 4 * GIB,
        memory_stats=lambda _: {},
        reset_peak_memory_stats=lambda _: None,
        synchronize=lambda _: None,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    device = torch.device("xpu")
    memory = _DeviceMemory(memory_of(device), device, 0.5)

    assert (memory.used(), memory.peak()) == (2 * GIB, 3 * GIB)
    assert memory.free() == 4 * GIB  # half of 16 GiB, less what this process holds
    free_cache(device)
    assert len(emptied) == 2


def test_a_module_that_tells_less_sets_no_budget(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace())
    assert memory_of(torch.device("hpu")) is None
    free_cache(torch.device("hpu"))


def test_processors_and_shapes_have_no_memory_of_their_own():
    assert [memory_of(torch.device(name)) for name in ("cpu", "meta")] == [None, None]


@pytest.mark.parametrize("available", [True, False])
def test_the_engine_is_chosen_by_what_torch_has(available, tmp_path, monkeypatch):
    sign = tmp_path / "renderD128"
    sign.touch()
    monkeypatch.setattr(select.sys, "platform", "linux")
    monkeypatch.setattr(select, "_SIGNS_OF_GPU", (str(sign),))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
    assert select._has_gpu("auto") is available
    monkeypatch.setattr(select.sys, "platform", "darwin")
    assert not select._has_gpu("auto")
