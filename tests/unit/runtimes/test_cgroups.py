"""Counters of containers, read from the kernel's files: both versions, and groups that are not the container's."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.runtimes.docker.cgroups import Counters, cgroup_of

ID = "5af92033000626221b60d5bb7b5603d3d3388c617ec7a370e905ce701ab78ad1"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    write(tmp_path / "proc/7/cgroup", f"4:memory:/docker/{ID}\n1:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n")
    write(tmp_path / f"cg/cpuacct/docker/{ID}/cpuacct.usage", "1500000000\n")
    memory = tmp_path / f"cg/memory/docker/{ID}"
    write(memory / "memory.max_usage_in_bytes", "4096\n")
    write(memory / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    found = cgroup_of(7, ID, tmp_path / "cg", tmp_path / "proc")
    assert found.counters() == Counters(1.5, 4096, 2)


@pytest.mark.parametrize("place", [f"/system.slice/docker-{ID}.scope", f"/machine.slice/libpod-{ID}.scope"])
def test_version_2_has_one_group_for_all(tmp_path: Path, place: str) -> None:
    write(tmp_path / "proc/7/cgroup", f"0::{place}\n")
    group = tmp_path / "cg" / place.lstrip("/")
    write(group / "cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    write(group / "memory.events", "low 0\noom 1\noom_kill 1\n")
    write(group / "memory.current", "8192\n")  # memory.peak is missing on older kernels
    found = cgroup_of(7, ID, tmp_path / "cg", tmp_path / "proc")
    assert found.counters() == Counters(2.5, 8192, 1)
    (group / "cpu.stat").unlink()
    (group / "memory.events").unlink()
    assert found.counters() == Counters(2.5, 8192, 1), "the last counters stay when the group is gone"


@pytest.mark.parametrize("place", ["/", "/user.slice", "/docker/0000"])
def test_a_group_that_is_not_the_containers_own_has_no_counters(tmp_path: Path, place: str) -> None:
    write(tmp_path / "proc/7/cgroup", f"1:cpuacct:{place}\n0::{place}\n")
    write(tmp_path / "cg/cpuacct" / place.lstrip("/") / "cpuacct.usage", "9909392620345\n")
    found = cgroup_of(7, ID, tmp_path / "cg", tmp_path / "proc")
    assert not found.readable
    assert found.counters() == Counters(0.0, 0, 0)


def test_a_process_that_is_gone_has_no_counters(tmp_path: Path) -> None:
    assert not cgroup_of(7, ID, tmp_path, tmp_path).readable
