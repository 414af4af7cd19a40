"""The devices that torch has, whatever their kind, and their memory."""

from __future__ import annotations

from typing import Any

import torch

from rerank_plugins.errors import ConfigError

__all__ = ["choose_devices", "free_cache", "full_name", "list_devices", "memory_of"]

_MEASURED = frozenset({"cpu", "cuda"})
"""Kinds of devices that this package was run on."""
_ASKED = frozenset({"cpu", "cuda", "mps"})
"""Kinds that torch itself says are there or not, in any build."""
_MEMORY = (
    "empty_cache",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
    "synchronize",
)


def choose_devices(device: str) -> list[torch.device]:
    """Return the devices that a setting names, each once, in that order.

    Args:
        device: one or several names of torch, separated by commas; `"auto"` for the accelerator
            that torch has, but for Apple's, else the CPU; or `"cuda:all"`.

    Raises:
        ConfigError: a device is unknown to torch, not available, or named twice.
    """
    available = [*_accelerators(), "cpu"]
    best = "cpu" if available[0] == "mps" else available[0]
    names = [best if name == "auto" else name for name in device.split(",")]
    if device == "cuda:all" and "cuda:0" in available:
        names = [name for name in available if name.startswith("cuda:")]
    for name in names:
        if name not in available and name.partition(":")[0] in _ASKED:
            raise ConfigError(f"device {name!r} is not available here; available: {available}")
    try:
        devices = [torch.device(name) for name in names]
    except RuntimeError as exc:
        raise ConfigError(
            f"torch does not know the device {device!r}; available: {available}"
        ) from exc
    for each in devices:
        if each.type not in _ASKED and not _computes(each):
            raise ConfigError(
                f"this torch ({torch.__version__}) can't compute on device {str(each)!r}: it is "
                f"not there, or needs another build of torch; available: {available}"
            )
    if len({(each.type, each.index or 0) for each in devices}) < len(devices):
        raise ConfigError(f"device {device!r} names one device twice")
    return devices


def list_devices() -> list[str]:
    """Return the full names of the processor and of every accelerator that computes."""
    found = _accelerators()
    numbered = [name for name in found if ":" in name] or found
    return [full_name(torch.device(name)) for name in ("cpu", *numbered)]


def full_name(device: torch.device) -> str:
    """Return the name of a device with its model, or that no figure of ours is from its kind."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device) if device.type in _MEASURED else f"{device} (not measured by this package)"


def memory_of(device: torch.device) -> Any | None:
    """Return torch's module that tells of the device's memory, as `torch.cuda` does, or None."""
    if device.type in ("cpu", "meta"):
        return None
    module = torch.get_device_module(device)
    return module if all(hasattr(module, name) for name in _MEMORY) else None


def free_cache(device: torch.device) -> None:
    """Give memory that is reserved and unused back to the device."""
    if device.type not in ("cpu", "meta"):
        empty = getattr(torch.get_device_module(device), "empty_cache", None)
        if empty is not None:
            empty()


def _accelerators() -> list[str]:
    """Return the names of the accelerators, those of the first kind that computes."""
    if torch.cuda.is_available() and (count := torch.cuda.device_count()):
        return ["cuda", *(f"cuda:{i}" for i in range(count))]
    if torch.backends.mps.is_available():
        return ["mps"]
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator()
    if kind is None or not _computes(torch.device(kind.type)):
        return []
    return [kind.type, *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]


def _computes(device: torch.device) -> bool:
    """Whether a number that goes to a device comes back."""
    try:
        return bool(torch.ones(1, device=device).item() == 1)
    except Exception:  # noqa: BLE001 - each of torch's backends raises what it likes
        return False
