"""How many processors may be used: affinity, and the quotas of control groups."""

import os

import pytest

from rerank_plugins._internal import cpu


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 processors; return a function that writes its files in `/sys/fs/cgroup`."""
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(cpu, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cpu, "_MOUNT", tmp_path / "cgroup")

    def write(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_without_control_groups_the_affinity_counts(machine):
    assert cpu.usable_cpus() == 16


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "not a number\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "max 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "500000 100000"}, 5),
        (
            "4:memory:/x\n3:cpu,cpuacct:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            "3:cpu:/docker/1f\n",
            {"cpu/cpu.cfs_quota_us": "700000", "cpu/cpu.cfs_period_us": "100000"},
            7,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        (
            "3:cpu,cpuacct:/x\n0::/x\n",
            {
                "cpu/x/cpu.cfs_quota_us": "900000",
                "cpu/x/cpu.cfs_period_us": "100000",
                "unified/x/cgroup.procs": "",
            },
            9,
        ),
        ("", {"cpu.max": "200000 100000"}, 16),
    ],
)
def test_the_smallest_quota_of_nested_groups_counts(machine, membership, files, expected):
    machine(membership, files)

    assert cpu.usable_cpus() == expected


def test_affinity_below_the_quota_counts(machine, monkeypatch):
    machine("0::/\n", {"cpu.max": "800000 100000"})
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})

    assert cpu.usable_cpus() == 2
