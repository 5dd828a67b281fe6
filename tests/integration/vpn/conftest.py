"""One image for all, and the runtimes, tried once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import trio

from golemp2p.runtimes.base import Runtime
from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings
from golemp2p.runtimes.qemu.machine import INSTALL
from golemp2p.runtimes.qemu.runtime import QemuRuntime
from tests.engine import Engine
from tests.integration.runtimes.busybox import MissingToolError, make_rootfs, make_squashfs
from tests.integration.vpn.world import World, open_world

Docker = Callable[..., Awaitable[DockerRuntime]]


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("busybox")
    root = make_rootfs(directory / "root")
    (root / "www").mkdir()
    (root / "www" / "hello.txt").write_text("hello from inside\n")
    if shutil.which("musl-gcc") is None:
        raise MissingToolError("there is no musl-gcc: apt-get install -y musl-tools gcc")
    source = Path(__file__).with_name("spoof.c")
    subprocess.run(["musl-gcc", "-static", "-o", str(root / "bin" / "spoof"), str(source)], check=True)
    return make_squashfs(root, directory / "image").read_bytes()


async def tried(runtime: Runtime) -> None:
    """Only a trial makes a runtime offer networks."""
    probe = await runtime.probe()
    assert probe.works, probe.reason
    assert probe.measured["vpn"] == probe.measured["inet"] == 1.0, "no TUN devices or local routes in guests here"


@pytest.fixture(scope="session")
def docker(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """Tried runtimes by name and settings; each is another node's."""
    made: dict[tuple[object, ...], DockerRuntime] = {}
    directory = tmp_path_factory.mktemp("docker")

    async def make(name: str, run_as: str = "", capabilities: str = "none") -> DockerRuntime:
        key = name, run_as, capabilities
        if key not in made:
            settings = DockerSettings(engine=docker_engine.url, run_as=run_as, capabilities=capabilities)
            runtime = DockerRuntime(settings, directory / "cache", directory / f"work-{len(made)}")
            await tried(runtime)
            made[key] = runtime
        return made[key]

    return make


@pytest.fixture(scope="session")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> QemuRuntime:
    missing = [tool for tool in ("qemu-system-x86_64", "mksquashfs", "mke2fs", "setpriv") if shutil.which(tool) is None]
    assert not missing, f"these tests need {', '.join(missing)}: {INSTALL}"
    runtime = QemuRuntime(tmp_path_factory.mktemp("guests"), accel="tcg")
    trio.run(tried, runtime)
    return runtime


@pytest.fixture
async def world(docker: Docker, busybox_image: bytes, tmp_path: Path) -> AsyncIterator[World]:
    """Two providers with containers."""
    runtimes: list[Mapping[str, Runtime]] = [{"vm/docker": await docker(name)} for name in ("one", "two")]
    async with open_world(tmp_path / "world", busybox_image, runtimes) as opened:
        yield opened
