"""Runtime "vm", backend qemu: the contract, and what is its own. Every test boots a machine (2 s under TCG)."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError, RuntimeInstance
from golemp2p.runtimes.qemu.instance import QemuInstance
from golemp2p.runtimes.qemu.machine import INSTALL
from golemp2p.runtimes.qemu.prepare import prepare
from golemp2p.runtimes.qemu.runtime import QemuRuntime
from golemp2p.runtimes.volumes import GuestPathError
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs
from tests.integration.runtimes.contract import MIB, Output, Payload, RuntimeContract

TOOLS = ("qemu-system-x86_64", "mksquashfs", "mke2fs", "setpriv", "prlimit", "lz4")


class QemuPayloads:
    broken = b"#!/bin/sh\necho no\n"

    def __init__(self, image: bytes) -> None:
        self.hello = Payload(image, "hello")
        self.exit_3 = Payload(image, "exit-3")
        self.echo = Payload(image, "echo-all")
        self.loop = Payload(image, "loop")
        self.tick_loop = Payload(image, "tick-loop")
        self.bomb = Payload(image, "bomb")
        self.flood = Payload(image, "flood")
        self.shell = Payload(image, "sh", ("-c",))


@pytest.fixture(scope="session")
def vm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernel and agent, made once for all tests."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"these tests need {', '.join(missing)}: {INSTALL}"
    cache = tmp_path_factory.mktemp("guests")
    prepare(cache / "qemu")
    return cache


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("busybox")
    return make_squashfs(make_rootfs(directory / "root"), directory / "image").read_bytes()


@pytest.fixture
def payloads(busybox_image: bytes) -> QemuPayloads:
    return QemuPayloads(busybox_image)


@pytest.fixture
def runtime(vm_cache: Path) -> QemuRuntime:
    return QemuRuntime(vm_cache, accel="tcg")


class TestQemu(RuntimeContract):
    pass
