"""One image for all, and the runtimes, tried once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings
from tests.engine import Engine
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs
from tests.integration.vpn.world import World, open_world


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("busybox")
    root = make_rootfs(directory / "root")
    (root / "www").mkdir()
    (root / "www" / "hello.txt").write_text("hello from inside\n")
    return make_squashfs(root, directory / "image").read_bytes()


async def docker_runtime(engine: Engine, directory: Path) -> DockerRuntime:
    """Tried out, since only a trial makes it offer networks."""
    runtime = DockerRuntime(DockerSettings(engine=engine.url), directory / "cache", directory / "work")
    probe = await runtime.probe()
    assert probe.works, probe.reason
    assert "vpn" in runtime.offer_properties()["golem.runtime.capabilities"], "no TUN devices in containers here"  # type: ignore[operator] # a list
    return runtime


@pytest.fixture
async def world(docker_engine: Engine, busybox_image: bytes, tmp_path: Path) -> AsyncIterator[World]:
    """Two providers with containers."""
    runtimes = [{"vm/docker": await docker_runtime(docker_engine, tmp_path / name)} for name in ("one", "two")]
    async with open_world(tmp_path / "world", busybox_image, runtimes) as opened:
        yield opened
