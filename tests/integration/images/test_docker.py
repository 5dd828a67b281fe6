"""What a real Docker engine makes of our conversions, and what we make of what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from golemp2p.errors import NetworkError
from golemp2p.images import ImageError, ImageKind, convert_image
from golemp2p.images.build import BuildOptions, build_image
from tests.engine import Engine
from tests.integration.runtimes.busybox import BUSYBOX
from tests.unit.images.making import gvmi, squashfs


@pytest.fixture
def client(docker_engine: Engine) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(docker_engine.url)
    yield made
    made.close()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "work").mkdir()
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("sh", "cat", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    return root


async def load_and_run(client: docker.DockerClient, image: Path, tmp_path: Path, command: list[str]) -> bytes:
    await convert_image(image, tmp_path / "load.tar", "docker-archive", name="golemp2p-test:1")
    with (tmp_path / "load.tar").open("rb") as file:
        (loaded,) = client.images.load(file)
    try:
        assert "golemp2p-test:1" in loaded.tags
        output = client.containers.run("golemp2p-test:1", command, remove=True, network_mode="none")
        return bytes(output)
    finally:
        client.images.remove("golemp2p-test:1", force=True)


async def test_an_image_that_we_built_runs_in_docker_as_configured(
    client: docker.DockerClient, rootfs: Path, tmp_path: Path
) -> None:
    options = BuildOptions(env=(("NAME", "golem"),), workdir="/work")
    info = build_image(str(rootfs), tmp_path / "image", options)
    assert info.kind is ImageKind.OCI_ARCHIVE
    said = await load_and_run(client, tmp_path / "image", tmp_path, ["sh", "-c", "echo $NAME in $PWD"])
    assert said == b"golem in /work\n"


async def test_a_gvmi_runs_in_docker(client: docker.DockerClient, rootfs: Path, tmp_path: Path) -> None:
    squashed = squashfs(rootfs, tmp_path / "s", "lzo").read_bytes()
    (tmp_path / "image.gvmi").write_bytes(gvmi(squashed, {"Env": ["PATH=/bin"], "WorkingDir": "/work"}))
    assert await load_and_run(client, tmp_path / "image.gvmi", tmp_path, ["sh", "-c", "pwd"]) == b"/work\n"


async def test_an_image_of_the_engine_is_built_by_name_and_comes_back_the_same(
    client: docker.DockerClient, docker_engine: Engine, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_image(str(rootfs), tmp_path / "image", BuildOptions(cmd=("echo", "hi")))
    await convert_image(tmp_path / "image", tmp_path / "load.tar", "docker-archive", name="golemp2p-source:1")
    with (tmp_path / "load.tar").open("rb") as file:
        (loaded,) = client.images.load(file)
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    try:
        info = build_image("golemp2p-source:1", tmp_path / "again")
        assert info.config.cmd == ("echo", "hi")
        assert await load_and_run(client, tmp_path / "again", tmp_path, ["echo", "again"]) == b"again\n"
        with pytest.raises(ImageError, match="no file, directory or Docker image"):
            build_image("golemp2p-nothing:1", tmp_path / "none")
    finally:
        client.images.remove(loaded.id, force=True)


def test_without_an_engine_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(NetworkError, match="no Docker engine"):
        build_image("some-image", tmp_path / "image")
    assert list(tmp_path.iterdir()) == []
