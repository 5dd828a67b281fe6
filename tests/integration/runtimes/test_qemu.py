"""Runtime "vm", backend qemu: the contract, and what is its own. Every test boots a machine (2 s under TCG)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import pytest
import trio

from golemp2p import limits
from golemp2p.runtimes.base import Deployment, EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.qemu.accel import find_accel
from golemp2p.runtimes.qemu.instance import QemuInstance
from golemp2p.runtimes.qemu.leftovers import Leftovers, _started
from golemp2p.runtimes.qemu.machine import INSTALL
from golemp2p.runtimes.qemu.prepare import prepare
from golemp2p.runtimes.qemu.runtime import QemuRuntime
from golemp2p.runtimes.volumes import GuestPathError
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs, make_tar
from tests.integration.runtimes.contract import MIB, NO_LIMITS, Output, Payload, unwrapped
from tests.integration.runtimes.seeded import ImageContract

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


class TestQemu(ImageContract):
    # The limit is kept by the guest's clock, which counts time that the host gave to others. The host's count is
    # billed, with what the emulator itself takes.
    cpu_bounds = (0.2, 2.0)

    @asynccontextmanager
    async def machine(
        self,
        runtime: QemuRuntime,
        image: bytes,
        tmp_path: Path,
        agreed: Limits = NO_LIMITS,
        **extra: object,
    ) -> AsyncIterator[Shell]:
        async with self.deployed(runtime, Payload(image), tmp_path, agreed, **extra) as instance:
            assert isinstance(instance, QemuInstance)
            yield Shell(instance)

    async def test_the_payload_sees_a_machine_of_its_own_and_nothing_else(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path, hostname="worker-7") as sh:
            assert await sh("hostname; grep worker-7 /etc/hosts | wc -l; pwd") == "worker-7\n1\n/golem/work\n"
            assert (await sh("ls /sys/class/net")).split() == ["lo"]
            assert "lo" in await sh("ip link show up")
            assert await sh("cd /dev; echo *") == (
                "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero\n"
            )
            # Root in there, but with what containers leave of it.
            for forbidden in (
                "mount -t tmpfs x /tmp",
                "mknod /tmp/vda b 254 0",
                "umount /golem/work",
                "rmdir /golem/work",
                "reboot -f",
                "cat /proc/1/fd/3",
                "readlink /proc/1/fd/3",
                "echo > /proc/1/fd/3",
                "cat /proc/1/mem",
                "echo 1 > /proc/sys/kernel/panic",
                "mkdir /sys/fs/cgroup/x",
                "dmesg -n 8",
                "insmod /bin/busybox",
                "chroot /proc/1/root /bin/ls",
            ):
                assert await sh(f"( {forbidden} ) >/dev/null 2>&1 && echo done || echo refused") == "refused\n", (
                    forbidden
                )
            assert await sh("kill -9 1; echo alive") == "alive\n"
            assert await sh("touch /bin/x /root/y && echo fine") == "fine\n"  # the overlay

    async def test_qemu_itself_has_few_rights(self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path) -> None:
        assert os.geteuid() == 0, "this test looks at a change of user: run it as root"
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            status = await trio.Path(f"/proc/{sh.pid}/status").read_text()
            facts = dict(line.split(":\t", 1) for line in status.splitlines())
            assert all(int(uid) >= 65534 for uid in facts["Uid"].split())
            assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
            assert facts["NoNewPrivs"] == "1"
            assert facts["Seccomp"] == "2"
            assert b"GOLEM" not in await trio.Path(f"/proc/{sh.pid}/environ").read_bytes()

    async def test_an_image_from_docker_boots_with_its_configuration(
        self, runtime: QemuRuntime, tmp_path: Path
    ) -> None:
        config: dict[str, object] = {
            "Env": ["FLAVOUR=mild", "KEEP=yes"],
            "WorkingDir": "/srv/app",
            "User": "nobody",
            "Volumes": {"/data": {}},
        }
        layer = make_tar(make_rootfs(tmp_path / "root"))
        async with self.machine(
            runtime, docker_archive(layer, config), tmp_path, env={"FLAVOUR": "hot"}, volumes=("/out",)
        ) as sh:
            assert await sh("echo $FLAVOUR $KEEP $(pwd) $(id -u):$(id -g)") == "hot yes /srv/app 65534:65534\n"
            assert set(sh.instance.files.volumes) == {"/golem/work", "/data", "/out"}
            assert await sh("touch /data/a /out/b /golem/work/c && echo mine") == "mine\n"
            source = tmp_path / "source"
            source.write_text("in")
            await sh.instance.files.put("/data/deep/in", source)
            assert await sh("rm /data/deep/in && echo mine") == "mine\n"

    async def test_files_go_in_and_come_out_and_links_lead_nowhere(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            source = tmp_path / "source"
            source.write_bytes(os.urandom(3 * MIB))
            await sh.instance.files.put("/golem/work/a/b", source)
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
            assert (await sh("sha256sum a/b")).split()[0] == digest
            async with sh.instance.files.reading("/golem/work/a/b", max_bytes=4 * MIB) as path:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
            await sh("ln -s /etc/passwd l; ln -s ../../etc/passwd m; mkdir tree; echo 1 > tree/x; ln -s x tree/y")
            for name in ("l", "m", "../../etc/passwd"):
                with pytest.raises(GuestPathError):
                    async with sh.instance.files.reading(f"/golem/work/{name}", max_bytes=MIB):
                        pass
            await sh.instance.files.get_tree("/golem/work/tree", tmp_path / "tree", max_bytes=MIB, max_files=10)
            assert (tmp_path / "tree" / "y").read_text() == "1\n"

    async def test_a_command_that_is_not_there_says_so(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            with pytest.raises(RuntimeFailureError, match="cannot run 'no-such-thing': no such program"):
                await sh.instance.run("no-such-thing", [], Output())
            with pytest.raises(RuntimeFailureError, match="started before"):
                await sh.instance.start([])

    async def test_a_server_in_the_machine_is_reached_by_connect(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            await sh("nc -l -p 8080 -e cat & while ! cat /proc/net/tcp* | grep -q :1F90; do :; done")
            stream = await sh.instance.connect(8080)
            with trio.fail_after(20):
                sent = os.urandom(600_000)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, sent)
                    received = bytearray()
                    while len(received) < len(sent):
                        received += await stream.receive_some()
            assert bytes(received) == sent
            await stream.aclose()
            with pytest.raises(RuntimeFailureError, match="refused"):
                await sh.instance.connect(9)

    async def test_children_in_the_background_do_not_hold_a_run(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            began = perf_counter()
            status, output = await self.run(sh.instance, Payload(b"", "leaver"))
            assert (status.code, bytes(output.stdout)) == (0, b"left\n")
            assert perf_counter() - began < 10
            assert "sleep 1000" in await sh("ps")

    async def test_a_fork_bomb_is_bounded_and_cancelling_ends_it(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path, Limits(processes=40)) as sh:
            with trio.move_on_after(2):
                await sh("while :; do (sleep 1000 &) 2>/dev/null; done")
            assert await sh("ps | grep -c 'sleep 100[0]' || true") == "0\n"
            assert "can't fork" in await sh("for i in $(seq 60); do sleep 50 & done 2>&1; true")

    async def test_a_full_disk_is_full_inside_and_bounded_outside(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        storage = 64 * MIB
        async with self.machine(runtime, busybox_image, tmp_path, Limits(storage_bytes=storage)) as sh:
            assert "No space left on device" in await sh("dd if=/dev/zero of=/golem/work/big bs=64k 2>&1; sync")
            assert "No space left on device" in await sh("dd if=/dev/zero of=/root/big bs=64k 2>&1")
            (disk,) = sh.instance.disk
            assert storage // 2 < disk.stat().st_blocks * 512 <= storage
            source = tmp_path / "source"
            source.write_bytes(bytes(MIB))
            with pytest.raises(RuntimeFailureError, match="No space left"):
                await sh.instance.files.put("/golem/work/more", source)
            # What is deleted inside is given back outside.
            await sh("rm /golem/work/big /root/big; sync")
            assert disk.stat().st_blocks * 512 < storage // 4
            assert await sh("echo better > /golem/work/x; cat /golem/work/x") == "better\n"

    async def test_out_of_memory_is_told_apart_from_a_kill(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path, Limits(memory_bytes=48 * MIB)) as sh:
            status, _ = await self.run(sh.instance, Payload(b"", "sh", ("-c", "kill -9 $$")))
            assert (status.code, status.reason) == (137, EndReason.KILLED)
            # The shell lives on and says 137 of its child, as with any shell.
            status, _ = await self.run(sh.instance, Payload(b"", "sh", ("-c", "bomb; exit $?")))
            assert (status.code, status.reason) == (137, EndReason.OUT_OF_MEMORY)
            status, _ = await self.run(sh.instance, Payload(b"", "true"))
            assert status.code == 0
            assert 40 * MIB < sh.instance.usage().memory_peak_bytes <= 48 * MIB

    async def test_a_killed_machine_is_known_at_once(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            output = Output()

            async def kill_it() -> None:
                await output.seen.wait()
                os.kill(sh.pid, signal.SIGKILL)

            async with unwrapped(), trio.open_nursery() as nursery:
                nursery.start_soon(kill_it)
                with trio.fail_after(30), pytest.raises(RuntimeFailureError, match="qemu ended by signal 9"):
                    await sh.instance.run("tick-loop", [], output)
            with trio.fail_after(30):
                assert await sh.instance.lost() == "qemu ended by signal 9"
            assert sh.instance.usage().cpu_s > 0
            with pytest.raises(RuntimeFailureError, match="gone"):
                await sh("true")

    async def test_an_activity_that_ends_while_its_machine_boots_leaves_nothing(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        package, work = tmp_path / "package", tmp_path / "work"
        package.write_bytes(busybox_image)
        work.mkdir()
        async with trio.open_nursery() as nursery:
            sha256 = hashlib.sha256(busybox_image).hexdigest()
            instance = await runtime.deploy(Deployment("d" * 32, package, sha256, work, nursery))
            with pytest.raises(RuntimeFailureError, match="not started"):
                await instance.run("true", [], Output())
            with trio.move_on_after(0.5) as scope:
                await instance.start([])
            assert scope.cancelled_caught
            pid = Shell(instance).pid
            await instance.terminate()
            assert not _started(pid)
            nursery.cancel_scope.cancel()

    async def test_fractions_of_a_core_are_kept(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path, Limits(cpus=0.25, wall_s=3.0)) as sh:
            before_s = sh.instance.usage().cpu_s
            await self.run(sh.instance, Payload(b"", "loop"))
            assert sh.instance.usage().cpu_s - before_s < 0.5 * 3.0

    async def test_a_machine_whose_kernel_panics_says_so(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            with pytest.raises(RuntimeFailureError, match="Kernel panic"):
                await sh("echo c > /proc/sysrq-trigger; sleep 100")
            assert "Kernel panic" in await sh.instance.lost()

    async def test_a_machine_dies_with_its_node(
        self, runtime: QemuRuntime, vm_cache: Path, busybox_image: bytes, tmp_path: Path
    ) -> None:
        """Killed, the node can clean nothing up: the kernel does it."""
        (tmp_path / "image").write_bytes(busybox_image)
        (tmp_path / "work").mkdir()
        node = await trio.to_thread.run_sync(start_node, vm_cache, tmp_path)
        try:
            assert node.stdout is not None
            pid = int(await trio.to_thread.run_sync(node.stdout.readline))
            assert _started(pid)
            node.kill()
            with trio.fail_after(30):
                while _started(pid):  # noqa: ASYNC110 - it is no child of ours
                    await trio.sleep(0.01)
        finally:
            node.kill()
            await trio.to_thread.run_sync(node.communicate)
        assert list((vm_cache / "qemu" / "running").iterdir())
        await runtime.clean_up()
        assert list((vm_cache / "qemu" / "running").iterdir()) == []

    async def test_the_probe_boots_and_measures(self, runtime: QemuRuntime) -> None:
        found = await runtime.probe()
        assert found.works, found.reason
        assert 0 < found.measured["start_s"] < 30
        assert 0 < found.measured["run_s"] < 5

    async def test_the_probe_says_what_to_install(
        self, runtime: QemuRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        found = await runtime.probe()
        assert not found.works
        assert "qemu-system-x86_64" in found.reason
        assert "apt-get install" in found.hint

    async def test_an_agent_that_does_not_come_up_is_an_error_with_the_consoles_words(
        self, vm_cache: Path, busybox_image: bytes, tmp_path: Path
    ) -> None:
        """A kernel of random bytes, as the machine's owner may name one by mistake."""
        kernel = tmp_path / "boot" / "vmlinuz-1"
        kernel.parent.mkdir()
        kernel.write_bytes(os.urandom(100_000))
        with pytest.raises(RuntimeFailureError, match="no modules of kernel"):
            async with self.machine(QemuRuntime(vm_cache, accel="tcg", kernel=str(kernel)), busybox_image, tmp_path):
                pass
        with pytest.raises(RuntimeFailureError, match="which is no file"):
            await QemuRuntime(vm_cache, accel="tcg", kernel="/no/kernel")._prepared()

    async def test_a_program_that_makes_no_network_traffic_can_still_use_its_loopback(
        self, runtime: QemuRuntime, busybox_image: bytes, tmp_path: Path
    ) -> None:
        async with self.machine(runtime, busybox_image, tmp_path) as sh:
            assert "1 packets received" in await sh("ping -c 1 127.0.0.1")
            assert "unreachable" in await sh("ping -c 1 10.0.2.2 2>&1; true")


async def test_kvm_is_believed_only_when_a_kernel_boots_with_it(vm_cache: Path, tmp_path: Path) -> None:
    """Whatever this machine has: the verdict comes in time, is kept, and is one that boots."""
    boot = prepare(vm_cache / "qemu")
    began = perf_counter()
    accel = await find_accel(tmp_path, boot)
    assert accel in ("kvm", "tcg")
    assert perf_counter() - began < limits.KVM_TRIAL_S + 3
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        (kept,) = await trio.Path(tmp_path).glob("accel-*")
        await kept.write_text("tcg")
        assert await find_accel(tmp_path, boot) == "tcg"


def test_leftovers_of_a_dead_node_are_killed_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    leftovers = Leftovers(tmp_path)
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        leftovers.note(sleeper.pid)
        assert leftovers.kill_orphans() == 0  # its owner, this process, lives
        (file,) = tmp_path.glob("*.json")
        facts = json.loads(file.read_text())
        file.write_text(json.dumps({**facts, "started": facts["started"] + 1, "owner_started": 1}))
        assert leftovers.kill_orphans() == 0  # another process has that pid now
        assert sleeper.poll() is None
        file.write_text(json.dumps({**facts, "owner_started": 1}))
        assert leftovers.kill_orphans() == 1
        assert sleeper.wait(timeout=30) == -signal.SIGKILL
        (tmp_path / "broken.json").write_text("{")
        assert leftovers.kill_orphans() == 0
        assert list(tmp_path.iterdir()) == []
    finally:
        sleeper.kill()
        sleeper.wait()


class Shell:
    """``await shell(script)`` is what it wrote, stdout and stderr."""

    def __init__(self, instance: QemuInstance) -> None:
        self.instance = instance

    @property
    def pid(self) -> int:
        assert self.instance._machine is not None
        return self.instance._machine.child.pid

    async def __call__(self, script: str) -> str:
        output = Output()
        with trio.fail_after(40):
            await self.instance.run("sh", ["-c", script], output)
        return (bytes(output.stdout) + bytes(output.stderr)).decode()


def docker_archive(layer: bytes, config: dict[str, object]) -> bytes:
    """What `docker save` writes, with one layer."""
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    files = {
        "config.json": json.dumps(described).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [], "Layers": ["layer.tar"]}]).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


NODE = """
import sys, trio
from pathlib import Path
from golemp2p.runtimes.base import Deployment
from golemp2p.runtimes.qemu.runtime import QemuRuntime

async def main(cache, here, sha256):
    async with trio.open_nursery() as nursery:
        runtime = QemuRuntime(Path(cache), accel="tcg")
        deployment = Deployment("c" * 32, Path(here, "image"), sha256, Path(here, "work"), nursery)
        instance = await runtime.deploy(deployment)
        await instance.start([])
        print(instance._machine.child.pid, flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


def start_node(cache: Path, here: Path) -> subprocess.Popen[bytes]:
    sha256 = hashlib.sha256((here / "image").read_bytes()).hexdigest()
    command = [sys.executable, "-c", NODE, str(cache), str(here), sha256]
    return subprocess.Popen(command, stdout=subprocess.PIPE)
