"""Runtime vm/docker on a real engine."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import trio

from golemp2p.images.build import BuildOptions, build_image
from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings
from tests.e2e.net import wait_until
from tests.engine import Engine
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs, make_tar
from tests.integration.runtimes.contract import MIB, Output, Payload, RuntimeContract
from tests.integration.runtimes.seeded import ImageContract


@dataclass(frozen=True)
class BusyboxPayloads:
    """The contract's programs in one image."""

    image: bytes
    broken: bytes = b"no image at all"

    def program(self, name: str, *args: str) -> Payload:
        return Payload(self.image, name, args)

    @property
    def hello(self) -> Payload:
        return self.program("hello")

    @property
    def exit_3(self) -> Payload:
        return self.program("exit-3")

    @property
    def echo(self) -> Payload:
        return self.program("echo-all")

    @property
    def loop(self) -> Payload:
        return self.program("loop")

    @property
    def tick_loop(self) -> Payload:
        return self.program("tick-loop")

    @property
    def bomb(self) -> Payload:
        return self.program("bomb")

    @property
    def flood(self) -> Payload:
        return self.program("flood")

    def sh(self, script: str) -> Payload:
        return self.program("sh", "-c", script)


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> BusyboxPayloads:
    directory = tmp_path_factory.mktemp("busybox")
    return BusyboxPayloads(make_squashfs(make_rootfs(directory / "root"), directory / "image").read_bytes())


@pytest.fixture(scope="module")
def runtime(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> DockerRuntime:
    return DockerRuntime(
        DockerSettings(engine=docker_engine.url), tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("work")
    )


class TestDocker(ImageContract):
    root_is_mighty = False

    async def shell(
        self,
        runtime: DockerRuntime,
        payloads: BusyboxPayloads,
        tmp_path: Path,
        script: str,
        limits: Limits | None = None,
    ) -> tuple[int, str]:
        """Exit code and output of a shell script in a new container."""
        payload = payloads.sh(script)
        async with self.deployed(runtime, payload, tmp_path, limits or Limits()) as instance:
            status, output = await self.run(instance, payload)
            return status.code, (bytes(output.stdout) + bytes(output.stderr)).decode(errors="replace")

    async def test_the_container_is_hardened(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        _, text = await self.shell(
            runtime,
            payloads,
            tmp_path,
            "cat /proc/self/status; ip -o link; unshare -U true || echo no namespaces; "
            "mount -t tmpfs x /tmp || echo no mounts; wget -T 2 -O- http://10.0.0.1/ || echo no way out; ulimit -n",
        )
        for expected in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert expected in text
        assert "no namespaces" in text
        assert "no mounts" in text
        assert "no way out" in text
        assert "eth0" not in text

    async def test_a_pids_bomb_stays_in_its_container(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.program("fork-bomb")
        async with self.deployed(runtime, payload, tmp_path, Limits(processes=30, wall_s=2.0)) as instance:
            status, output = await self.run(instance, payload)
            assert status.code != 0
            assert b"fork" in output.stderr
        (tmp_path / "instance").rename(tmp_path / "first")
        code, text = await self.shell(runtime, payloads, tmp_path, "ps | wc -l")
        assert code == 0
        assert int(text) < 10

    async def test_a_full_work_volume_is_no_space_left_and_not_the_hosts_disk(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        script = "cd /golem/work; for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=f$i bs=1M count=8 || exit 5; done"
        code, text = await self.shell(runtime, payloads, tmp_path, script, Limits(storage_bytes=32 * MIB))
        assert code == 5
        assert "No space left" in text

    async def test_an_image_with_more_in_its_volumes_than_the_disk_is_refused(
        self, runtime: DockerRuntime, tmp_path: Path
    ) -> None:
        big = make_rootfs(tmp_path / "root") / "golem" / "work" / "big"
        big.parent.mkdir(parents=True)
        big.write_bytes(bytes(40 * MIB))
        image = make_squashfs(tmp_path / "root", tmp_path / "image").read_bytes()
        with pytest.raises(RuntimeFailureError, match="does not fit"):
            async with self.deployed(runtime, Payload(image, "true"), tmp_path, Limits(storage_bytes=32 * MIB)):
                pass
        engine = runtime._find()
        assert not await engine.containers("golemp2p.node=" + runtime._owner)

    async def test_a_run_ends_with_its_process_though_children_hold_its_pipes(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.program("leaver")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            with trio.fail_after(30):
                status, output = await self.run(instance, payload)
            assert (status.code, bytes(output.stdout)) == (0, b"left\n")
            _, output = await self.run(instance, payloads.sh("ps"))
            assert b"sleep 1000" in output.stdout  # it lives until the activity ends

    async def test_a_kill_is_told_apart_from_memory_that_ran_out(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.sh("kill -9 $$")
        async with self.deployed(runtime, payload, tmp_path, Limits(memory_bytes=64 * MIB)) as instance:
            status, _ = await self.run(instance, payload)
            assert (status.code, status.reason) == (137, EndReason.KILLED)

    async def test_an_unknown_command_is_named(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.program("no-such-program")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            with pytest.raises(RuntimeFailureError, match="no-such-program"):
                await self.run(instance, payload)
            status, _ = await self.run(instance, payloads.hello)
            assert status.code == 0

    async def test_files_go_in_and_come_out(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.sh("tr a-z A-Z < in.txt > deep/out.txt; ln -s /etc/passwd leak")
        source = tmp_path / "source"
        source.write_text("hello")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            await instance.files.put("/golem/work/in.txt", source)
            await instance.files.put("/golem/work/deep/x", source)
            status, output = await self.run(instance, payload)
            assert status.code == 0, bytes(output.stderr)
            async with instance.files.reading("/golem/work/deep/out.txt", max_bytes=100) as path:
                assert await trio.Path(path).read_text() == "HELLO"
            with pytest.raises(RuntimeFailureError.__mro__[1], match="leads out"):
                async with instance.files.reading("/golem/work/leak", max_bytes=10_000):
                    pass

    async def test_a_working_directory_that_the_image_names_and_does_not_hold_is_made(
        self, runtime: DockerRuntime, tmp_path: Path
    ) -> None:
        """As docker run does, whoever the image's user is."""
        make_rootfs(tmp_path / "root")
        build_image(str(tmp_path / "root"), tmp_path / "image", BuildOptions(workdir="/not/there", user="nobody"))
        payload = Payload((tmp_path / "image").read_bytes(), "sh", ("-c", "pwd; id -u"))
        async with self.deployed(runtime, payload, tmp_path) as instance:
            _, output = await self.run(instance, payload)
            assert bytes(output.stdout) == b"/not/there\n65534\n"

    async def test_files_that_come_in_belong_to_the_images_user(self, runtime: DockerRuntime, tmp_path: Path) -> None:
        make_rootfs(tmp_path / "root")
        build_image(str(tmp_path / "root"), tmp_path / "image", BuildOptions(user="nobody"))
        script = "echo more >> file && rm tree/deep/file && > tree/deep/new && stat -c %u . file tree tree/deep"
        payload = Payload((tmp_path / "image").read_bytes(), "sh", ("-c", script))
        (tmp_path / "tree" / "deep").mkdir(parents=True)
        (tmp_path / "tree" / "deep" / "file").write_text("x")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            await instance.files.put("/golem/work/file", tmp_path / "tree" / "deep" / "file")
            await instance.files.put_tree("/golem/work/tree", tmp_path / "tree")
            status, output = await self.run(instance, payload)
            assert (status.code, bytes(output.stdout)) == (0, b"65534\n" * 4), bytes(output.stderr)

    async def test_a_port_of_the_payload_can_be_reached(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        payload = payloads.sh("nc -l -p 4000 -e tr a-z A-Z & sleep 0.2")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            await self.run(instance, payload)
            stream = await instance.connect(4000)
            await stream.send_all(b"hello\n")
            await stream.send_eof()
            received = b""
            with trio.fail_after(10):
                while data := await stream.receive_some():
                    received += data
            await stream.aclose()
            assert received == b"HELLO\n"
            with pytest.raises(RuntimeFailureError, match="4001"):
                await instance.connect(4001)

    async def test_a_container_that_is_removed_behind_our_back_is_lost_with_a_reason(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.tick_loop, tmp_path) as instance, trio.open_nursery() as nursery:
            output = Output()
            ended: list[object] = []

            async def run() -> None:
                with pytest.raises(RuntimeFailureError) as caught:
                    await instance.run(payloads.tick_loop.entry_point, (), output)
                ended.append(caught.value)

            nursery.start_soon(run)
            with trio.fail_after(20):
                await output.seen.wait()
                await runtime._find().remove(instance._machine.container)  # type: ignore[attr-defined] # white box
                assert "container" in await instance.lost()
            with trio.fail_after(30):
                while not ended:
                    await trio.lowlevel.checkpoint()

    async def test_what_a_killed_node_left_is_removed(
        self, runtime: DockerRuntime, payloads: BusyboxPayloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.hello, tmp_path):
            engine = runtime._find()
            label = f"golemp2p.node={runtime._owner}"
            assert len(await engine.containers(label)) == 1
            await runtime.clean_up()
            assert await engine.containers(label) == []

    async def test_a_probe_really_runs_something(self, runtime: DockerRuntime) -> None:
        probe = await runtime.probe()
        assert probe.works, probe.reason
        assert 0 < probe.measured["start_s"] < 20


async def test_a_root_that_may_only_be_read_leaves_volumes_and_tmp_to_write_to(
    docker_engine: Engine, payloads: BusyboxPayloads, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    settings = DockerSettings(engine=docker_engine.url, read_only_root=True)
    runtime = DockerRuntime(settings, tmp_path / "cache", tmp_path / "work")
    payload = payloads.sh("echo 1 > /root/x || echo refused; echo 2 > x && echo 3 > /tmp/x && cat x /tmp/x")
    contract = RuntimeContract()
    async with contract.deployed(runtime, payload, tmp_path) as instance:
        status, output = await contract.run(instance, payload)
        assert (status.code, bytes(output.stdout)) == (0, b"refused\n2\n3\n"), bytes(output.stderr)


async def test_a_machine_without_an_engine_says_what_to_do(tmp_path: Path) -> None:
    runtime = DockerRuntime(DockerSettings(engine=f"unix://{tmp_path}/none"), tmp_path, tmp_path)
    probe = await runtime.probe()
    assert not probe.works
    assert "does not answer" in probe.reason
    await runtime.clean_up()  # no engine, nothing to remove


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of an image registry of our own."""
    program = shutil.which("docker-registry")
    assert program, "there is no docker-registry on this machine: run scripts/setup vm-dev"
    directory = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\nhttp: {{addr: '{place}'}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(place), what="the registry")
        yield place
    finally:
        process.kill()
        process.wait()


def _listens(place: str) -> bool:
    host, _, port = place.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


async def test_an_allowed_image_is_pulled_by_its_digest_and_no_other(
    docker_engine: Engine, registry: str, tmp_path: Path
) -> None:
    digest = _push(docker_engine, registry, make_tar(make_rootfs(tmp_path / "root")))
    reference = f"{registry}/team/busybox@{digest}"
    settings = DockerSettings(engine=docker_engine.url, pull=(f"{registry}/team/",))
    runtime = DockerRuntime(settings, tmp_path / "cache", tmp_path / "work")
    assert "pull" in runtime.offer_properties()["golem.runtime.capabilities"]  # type: ignore[operator] # a list
    hello = Payload(b"", "hello")
    contract = RuntimeContract()
    async with contract.deployed(runtime, hello, tmp_path, reference=reference) as instance:
        _, output = await contract.run(instance, hello)
        assert bytes(output.stdout) == b"hello\n"
    with pytest.MonkeyPatch.context() as patch:  # what was pulled makes room as everything else
        patch.setattr("golemp2p.limits.IMAGE_CACHE_BYTES", 0)
        await runtime.clean_up()
    assert await runtime._find().image(reference) is None
    for wrong, complaint in (
        (reference[:-4] + "0000", "engine refused"),
        (f"{registry}/team/busybox:latest", "no digest"),
        (f"{registry}/others/busybox@{digest}", "does not pull"),
    ):
        (tmp_path / "instance").rename(tmp_path / f"before-{complaint}")
        with pytest.raises(RuntimeFailureError, match=complaint):
            async with contract.deployed(runtime, hello, tmp_path, reference=wrong):
                pass


def _push(engine: Engine, registry: str, tar: bytes) -> str:
    """The digest under which the registry has the image."""
    client = docker.APIClient(engine.url)
    try:
        client.import_image_from_data(tar, repository=f"{registry}/team/busybox", tag="latest")
        lines = list(client.push(f"{registry}/team/busybox", tag="latest", stream=True, decode=True))
        client.remove_image(f"{registry}/team/busybox:latest")
    finally:
        client.close()
    return str(next(line["aux"]["Digest"] for line in lines if "aux" in line))
