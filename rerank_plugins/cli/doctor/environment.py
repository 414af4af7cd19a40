"""What this machine and installation offer for reranking."""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import rerank_plugins
from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins.backends.chat.dialects import SERVERS
from rerank_plugins.backends.http.dialects import DIALECTS

__all__ = ["describe_environment"]

_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
_ACCELERATORS = "rerank_plugins.backends.local.torch.accelerators"
_COLLECTIONS = ("all", "dev")
"""Extras that only collect others."""
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)[^;]*(?:;\s*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"])?"
)


def describe_environment() -> dict[str, object]:
    """Return JSON-ready facts; imports torch, if installed, to see its devices."""
    packages = _packages()
    return {
        "rerank-plugins": rerank_plugins.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": {"cores": usable_cpus(), "features": _cpu_features()},
        "packages": packages.pop("", {}),
        "extras": packages,
        "devices": _devices(),
        "keys": sorted(name for name in _key_variables() if os.environ.get(name)),
    }


def _packages() -> dict[str, dict[str, str | None]]:
    """Map each extra, and `""` for the base, to its packages and their installed versions."""
    try:
        requirements = requires("rerank-plugins") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        requirements = []
    extras: dict[str, dict[str, str | None]] = defaultdict(dict)
    for line in requirements:
        match = _REQUIREMENT.fullmatch(line)
        if match and match["extra"] not in _COLLECTIONS:
            extras[match["extra"] or ""][match["name"]] = _installed(match["name"])
    return dict(extras)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_features() -> list[str]:
    """Instructions that speed up inference, where the system lists them (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return [feature for feature in _CPU_FEATURES if feature in flags]


def _devices() -> dict[str, list[str]]:
    """Map each installed engine library to the devices it can compute on."""
    devices: dict[str, list[str]] = {}
    if find_spec("onnxruntime"):
        runtime = importlib.import_module("onnxruntime")
        devices["onnxruntime"] = [
            provider.removesuffix("ExecutionProvider").lower()
            for provider in runtime.get_available_providers()
            if provider != "AzureExecutionProvider"  # calls a cloud service: no device of ours
        ]
    if find_spec("torch"):
        devices["torch"] = importlib.import_module(_ACCELERATORS).list_devices()
    return devices


def _key_variables() -> set[str]:
    variables = [dialect.key_variables for dialect in DIALECTS.values()]
    variables += [server.key_variables for server in SERVERS.values()]
    return set().union(*variables)
