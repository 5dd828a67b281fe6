"""Runtime vm/docker when payloads, images and the engine are at their worst: nothing may be left, nothing may fill."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import golemp2p
from golemp2p import limits as bounds
from golemp2p.images.build import BuildOptions, build_image
from golemp2p.runtimes.base import Deployment, Limits, RuntimeFailureError
from golemp2p.runtimes.docker.instance import DockerInstance
from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings
from golemp2p.runtimes.docker.workvolume import MOUNT, drop_volume, make_volume
from tests.engine import Engine, open_engine
from tests.integration.runtimes import nonroot
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs
from tests.integration.runtimes.contract import MIB, NO_LIMITS, Output, Payload, RuntimeContract, unwrapped


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture(scope="module")
def image(rootfs: Path) -> Path:
    return make_squashfs(rootfs, rootfs.parent / "image")


@pytest.fixture
def runtime(docker_engine: Engine, tmp_path: Path) -> DockerRuntime:
    return DockerRuntime(DockerSettings(engine=docker_engine.url), tmp_path / "cache", tmp_path)


@asynccontextmanager
async def order(package: Path, work: Path, agreed: Limits = NO_LIMITS) -> AsyncIterator[Deployment]:
    await trio.Path(work).mkdir()
    sha256 = hashlib.sha256(await trio.Path(package).read_bytes()).hexdigest()
    async with unwrapped(), trio.open_nursery() as nursery:
        yield Deployment(hashlib.sha256(str(work).encode()).hexdigest()[:32], package, sha256, work, nursery, agreed)
        nursery.cancel_scope.cancel()


def mounts_below(directory: Path) -> Sequence[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {directory}/" in line]


async def containers_of(runtime: DockerRuntime) -> Sequence[str]:
    return await runtime._find().containers(f"golemp2p.node={runtime._owner}")


async def test_a_deploy_that_the_engine_refuses_leaves_no_mount(
    runtime: DockerRuntime, image: Path, tmp_path: Path
) -> None:
    async with order(image, tmp_path / "work") as deployment:
        with pytest.raises(RuntimeFailureError, match="refused"):
            await runtime.deploy(replace(deployment, volumes=("/a:/b:rw",)))
        assert mounts_below(tmp_path) == []
        assert await containers_of(runtime) == []


async def test_a_deploy_that_is_cancelled_anywhere_leaves_nothing(
    runtime: DockerRuntime, image: Path, tmp_path: Path
) -> None:
    async with order(image, tmp_path / "warm") as deployment:  # the image is there, the agent is compiled
        await (await runtime.deploy(deployment)).terminate()
    async with order(image, tmp_path / "measured") as deployment:
        began_s = trio.current_time()
        await (await runtime.deploy(deployment)).terminate()
        took_s = trio.current_time() - began_s
    for number in range(24):
        async with order(image, tmp_path / f"work-{number}") as deployment:
            with trio.move_on_after(took_s * number / 24):
                instance = await runtime.deploy(deployment)
                with trio.CancelScope(shield=True):
                    await instance.terminate()
        assert mounts_below(tmp_path) == []
    with trio.fail_after(10):
        while await containers_of(runtime):  # noqa: ASYNC110 - the engine removes them by and by
            await trio.sleep(0.05)
    assert mounts_below(tmp_path) == []


async def test_a_container_that_was_ordered_too_late_is_removed_by_who_made_it(
    runtime: DockerRuntime, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers when nobody waits any more."""
    import time

    import docker

    made: list[str] = []
    create = docker.APIClient.create_container

    def slow(api: docker.APIClient, **config: object) -> dict[str, str]:
        answer: dict[str, str] = create(api, **config)
        time.sleep(0.3)
        made.append(answer["Id"])
        return answer

    monkeypatch.setattr(docker.APIClient, "create_container", slow)
    async with order(image, tmp_path / "work") as deployment:
        ordered = trio.Event()
        original = runtime._find().create

        async def create_and_tell(**config: object) -> str:
            ordered.set()
            return await original(**config)

        monkeypatch.setattr(runtime._find(), "create", create_and_tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.deploy, deployment)
            await ordered.wait()
            nursery.cancel_scope.cancel()
        assert mounts_below(tmp_path) == []
        with trio.fail_after(10):
            while not made or await containers_of(runtime):  # noqa: ASYNC110 - another thread's work
                await trio.sleep(0.02)


async def test_a_container_that_the_engine_could_not_remove_is_removed_with_the_next_deploy(
    image: Path, tmp_path: Path
) -> None:
    with open_engine() as engine:
        runtime = DockerRuntime(DockerSettings(engine=engine.url), tmp_path / "cache", tmp_path)
        async with order(image, tmp_path / "one") as deployment:
            instance = await runtime.deploy(deployment)
            await instance.start([])
            engine.stop()
            with trio.fail_after(30):
                await instance.terminate()
        assert mounts_below(tmp_path) == []
        engine.start()
        assert len(await containers_of(runtime)) == 1
        async with order(image, tmp_path / "two") as deployment:
            instance = await runtime.deploy(deployment)
            assert len(await containers_of(runtime)) == 1
            await instance.terminate()
        assert await containers_of(runtime) == []


async def test_volumes_that_cannot_be_mounted_are_watched_as_directories(
    runtime: DockerRuntime, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on every node that is not root's: mkfs works, mount does not."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mount").write_text("#!/bin/sh\necho only root can do that >&2\nexit 1\n")
    (tmp_path / "bin" / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    async with order(image, tmp_path / "work") as deployment:
        instance = await runtime.deploy(deployment)
        try:
            assert tmp_path / "work" / MOUNT in instance.disk
        finally:
            await instance.terminate()


async def test_space_of_deleted_files_that_are_still_open_counts(
    runtime: DockerRuntime, image: Path, tmp_path: Path
) -> None:
    script = 'i=3; while [ $i -lt 9 ]; do eval "exec $i>/f$i"; rm /f$i; dd if=/dev/zero bs=1M count=16 >&$i; '
    script += "i=$((i+1)); done; echo full; sleep 100"
    async with order(image, tmp_path / "work", Limits(storage_bytes=32 * MIB)) as deployment:
        instance = await runtime.deploy(deployment)
        try:
            await instance.start([])
            deployment.nursery.start_soon(_run_on, instance, script, "deleted")
            with trio.fail_after(20):
                assert "deleted" in await instance.lost()
        finally:
            await instance.terminate()


async def test_what_is_written_where_we_may_not_look_counts_too(
    runtime: DockerRuntime, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golemp2p.runtimes.docker.instance._is_visible", lambda _: False)
    monkeypatch.setattr(bounds, "ENGINE_SIZE_POLL_S", 0.3)
    script = "for i in 1 2 3 4; do dd if=/dev/zero of=/f$i bs=1M count=16; done; sleep 100"
    async with order(image, tmp_path / "work", Limits(storage_bytes=32 * MIB)) as deployment:
        instance = await runtime.deploy(deployment)
        try:
            await instance.start([])
            deployment.nursery.start_soon(_run_on, instance, script, "outside")
            with trio.fail_after(20):
                assert "outside of its volumes" in await instance.lost()
        finally:
            await instance.terminate()


async def _run_on(instance: DockerInstance, script: str, complaint: str) -> None:
    with pytest.raises(RuntimeFailureError, match=complaint):
        await instance.run("sh", ["-c", script], Output())


async def test_images_beyond_the_budget_go_while_the_node_runs(
    runtime: DockerRuntime, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one that is wanted now, though its maker says that it is the oldest."""
    monkeypatch.setattr(bounds, "IMAGE_CACHE_BYTES", 3_000_000)  # one of them
    tags = []
    for number in range(3):
        (rootfs / "number").write_text(str(number))
        package = make_squashfs(rootfs, tmp_path / f"image-{number}")
        async with order(package, tmp_path / f"work-{number}") as deployment:
            await (await runtime.deploy(deployment)).terminate()
            tags.append(f"golemp2p/image:{deployment.package_sha256}")
    (rootfs / "number").unlink()
    found = [await runtime._find().image(tag) is not None for tag in tags]
    assert found == [False, False, True]


@pytest.mark.parametrize("volume", ["/", "relative", "/a:/b", "/a/../../b", "/.golemp2p-agent", "/proc", "/proc/sys"])
async def test_an_image_with_a_hostile_volume_is_refused_and_leaves_nothing(
    runtime: DockerRuntime, rootfs: Path, tmp_path: Path, volume: str
) -> None:
    package = tmp_path / "image.tar"
    _build(rootfs, package, volumes=(volume,))
    async with order(package, tmp_path / "work") as deployment:
        with pytest.raises(RuntimeFailureError):
            instance = await runtime.deploy(deployment)
            try:
                await instance.start([])
                await instance.run("sh", ["-c", "exit 0"], Output())
            finally:
                await instance.terminate()
        assert mounts_below(tmp_path) == []
        assert await containers_of(runtime) == []


def _build(rootfs: Path, target: Path, **config: object) -> None:
    """``rootfs`` as a docker-archive with this in its configuration."""
    from golemp2p.images import build

    applied = BuildOptions.applied

    def with_more(options: BuildOptions, found: object) -> object:
        return replace(applied(options, found), **config)  # type: ignore[arg-type] # what a test gives

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.BuildOptions, "applied", with_more)
        build_image(str(rootfs), target)


async def test_a_payload_of_another_user_may_write_its_volumes_and_what_was_put_there_can_be_replaced(
    runtime: DockerRuntime, rootfs: Path, tmp_path: Path
) -> None:
    package = tmp_path / "image.tar"
    _build(rootfs, package, user="nobody", volumes=("/data/", "/data"))
    source = tmp_path / "source"
    source.write_text("hello")
    async with order(package, tmp_path / "work") as deployment:
        instance = await runtime.deploy(deployment)
        try:
            await instance.start([])
            await instance.files.put("/golem/work/in", source)
            contract = RuntimeContract()
            script = "id -u; cat in > out && rm in && mkdir -m 700 /data/mine && echo x > /data/mine/y && chmod 0 out"
            status, output = await contract.run(instance, Payload(b"", "sh", ("-c", script)))
            assert (status.code, bytes(output.stdout)) == (0, b"65534\n"), bytes(output.stderr)
            async with instance.files.reading("/data/mine/y", max_bytes=100) as path:
                assert await trio.Path(path).read_text() == "x\n"
        finally:
            await instance.terminate()


def probes_left() -> Sequence[str]:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in mounts if f"/golemp2p-probe-{os.getpid()}-" in place]


async def test_a_trial_whose_time_is_up_says_so_and_leaves_nothing(
    runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await runtime.probe()).works  # the agent is compiled
    for number in range(8):
        monkeypatch.setattr(bounds, "PROBE_TIMEOUT_S", 0.05 + 0.08 * number)
        probe = await runtime.probe()
        assert probe.works or "did not end" in probe.reason, probe.reason
        assert probes_left() == []
    with trio.fail_after(10):
        while await containers_of(runtime):  # noqa: ASYNC110 - the engine removes them by and by
            await trio.sleep(0.05)


async def test_the_trial_of_a_killed_node_is_removed_and_that_of_a_living_one_is_not(runtime: DockerRuntime) -> None:
    dead = (await trio.run_process(["sh", "-c", "echo $$"], capture_stdout=True)).stdout.decode().strip()
    places = []
    for pid in (dead, os.getpid()):
        place = Path(tempfile.mkdtemp(prefix=f"golemp2p-probe-{pid}-"))
        (place / "work").mkdir()
        await trio.to_thread.run_sync(make_volume, place / "work", 8 * MIB)
        places.append(place)
    try:
        await runtime.clean_up()
        assert not places[0].exists()
        assert (places[1] / "work" / MOUNT).is_mount()
    finally:
        drop_volume(places[1] / "work")
        shutil.rmtree(places[1])


async def test_a_node_that_is_not_roots_counts_and_removes_what_its_payloads_made(image: Path, tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        with open_engine() as engine:
            # Python itself may be out of that user's reach, so there must be nothing to convert.
            rich = DockerRuntime(DockerSettings(engine=engine.url), tmp_path / "cache", tmp_path)
            async with order(image, tmp_path / "work") as deployment:
                await (await rich.deploy(deployment)).terminate()
            engine.directory.chmod(0o711)
            (engine.directory / "s").chmod(0o666)
            copy = trio.Path(shutil.copy(image, place / "image"))
            await trio.Path(place).chmod(0o777)
            await copy.chmod(0o644)
            script = str(Path(nonroot.__file__))
            with trio.fail_after(60):
                done = await trio.run_process(
                    [sys.executable, script, engine.url, str(copy), str(place)],
                    check=False,
                    capture_stdout=True,
                    capture_stderr=True,
                    env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(golemp2p.__file__).parent.parent)},
                )
        said = done.stdout.decode()
        for expected in (f"{nonroot.USER}\n", "code 0\n", "counted True\n", "left False\n"):
            assert expected in said, said + done.stderr.decode()
    finally:
        shutil.rmtree(place)


async def test_the_operators_own_images_are_never_evicted(
    docker_engine: Engine, runtime: DockerRuntime, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they hold, also the same as one of ours."""
    engine = runtime._find()
    async with order(image, tmp_path / "work") as deployment:
        await (await runtime.deploy(deployment)).terminate()
        ours = f"golemp2p/image:{deployment.package_sha256}"
    await engine.call(lambda api: api.tag(ours, "operators/own", "1"))
    await engine.call(lambda api: api.tag(ours, "golemp2p/image-like", "1"))
    monkeypatch.setattr(bounds, "IMAGE_CACHE_BYTES", 0)
    await runtime.clean_up()
    assert await engine.image(ours) is None
    for theirs in ("operators/own:1", "golemp2p/image-like:1"):
        assert await engine.image(theirs) is not None
        await engine.remove_image(theirs)
