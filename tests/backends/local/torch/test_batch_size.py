"""The budget of a batch, on a device with simulated memory."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")

import torch

from rerank_plugins.backends.local.torch.batch_size import measure_batch_size


class Device:
    """A device with some free bytes, of which a batch takes some per token."""

    def __init__(self, free: int, per_token: int) -> None:
        self._free = free
        self._per_token = per_token
        self._peak = 0
        self.ran: list[int] = []

    def run(self, tokens: int) -> None:
        self.ran.append(tokens)
        if tokens * self._per_token > self._free:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self._peak = max(self._peak, 1000 + tokens * self._per_token)

    def free(self) -> int:
        return self._free

    def used(self) -> int:
        return 1000

    def peak(self) -> int:
        return self._peak

    def restart(self) -> None:
        self._peak = 0


def found(free: int, per_token: int = 1000) -> tuple[int, str, list[int]]:
    device = Device(free, per_token)
    budget, reason = measure_batch_size(device.run, device, 65_536)
    return budget, reason, device.ran


def test_much_memory_gives_what_keeps_the_device_busy() -> None:
    budget, reason, ran = found(10**9)

    assert (65_536, "keeps the device busy") == (budget, reason)
    assert [512, 8192] == ran


def test_little_memory_gives_what_fits() -> None:
    """With a fifth left over."""
    budget, reason, _ = found(20_000_000)

    assert 16_000 == budget
    assert "1,000 bytes per token" in reason


def test_a_batch_that_does_not_fit_is_halved_to_be_measured() -> None:
    budget, _, ran = found(3_000_000)

    assert 2400 == budget
    assert [8192, 4096, 2048] == [tokens for tokens in ran if tokens > 512]


def test_hardly_any_memory_gives_the_minimum() -> None:
    assert (512, "hardly any memory is free") == found(600_000)[:2]


def test_other_failures_are_not_taken_for_out_of_memory() -> None:
    device = Device(10**9, 1)

    def run(tokens: int) -> None:
        raise RuntimeError("device-side assert")

    with pytest.raises(RuntimeError, match="device-side"):
        measure_batch_size(run, device, 65_536)
