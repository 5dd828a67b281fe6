"""Container and VM images, from `golemp2p job run --image` to the engine and back. Backends: docker and qemu."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import debian_gvmi
from tests.e2e.net import GOLEMP2P, Net, NodeProcess, alive, environment, golemp2p, open_net, wait_until
from tests.engine import Engine, open_engine
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs

BACKENDS = ("docker", "qemu")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Of this module alone: a test stops it."""
    with open_engine() as found:
        yield found


@pytest.fixture(scope="module")
def vm_net(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """One provider with all built-in runtimes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        with open_net(
            tmp_path_factory.mktemp("vm"),
            providers=1,
            runtimes=["wasmtime", "vm/docker", "vm/qemu"],
            provider={"max_activities": 4, "memory_gib": 0.5, "storage_gib": 0.5},
            payment={"auto_accept_after_s": 1.0},
        ) as found:
            yield found


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("image")
    return make_squashfs(make_rootfs(directory / "root"), directory / "busybox.gvmi")


def job(net: Net, image: Path | str, *args: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """`golemp2p job run --image IMAGE ARGS`."""
    node = net.requestor
    return golemp2p(
        "job", "run", "--image", str(image), "--wait", "20", *args,
        GOLEMP2P_DATA_DIR=str(node.data_dir), timeout_s=timeout_s,
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_command_runs_in_an_image_as_docker_run_would_run_it(vm_net: Net, busybox: Path, backend: str) -> None:
    done = job(
        vm_net, busybox, "--backend", backend, "--env", "COLOUR=green", "--memory", "128m", "--cpus", "1", "--",
        "sh", "-c", 'echo "hi $COLOUR"; echo oops >&2; ls -d /golem/work; exit 7',
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stdout == "hi green\n/golem/work\n"
    assert "oops\n" in done.stderr
    assert "cost: " in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_and_directories_go_in_and_come_back(vm_net: Net, busybox: Path, backend: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.txt").write_text("a\n")
    (tmp_path / "in" / "run.sh").write_text(
        "#!/bin/sh\nmkdir -p out/x; cat in/deep/a.txt b.txt > out/x/both; ln -s x out/link\n"
    )
    (tmp_path / "in" / "run.sh").chmod(0o755)
    (tmp_path / "b.txt").write_text("b\n")
    done = job(
        vm_net, busybox, "--backend", backend,
        "--input", str(tmp_path / "in"), "--input", f"{tmp_path}/b.txt",
        "--output", f"out/:{tmp_path}/result", "--output", f"out/x/both:{tmp_path}/both.txt", "--", "in/run.sh",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result" / "x" / "both").read_text() == "a\nb\n"
    assert (tmp_path / "result" / "link").readlink() == Path("x")
    assert (tmp_path / "both.txt").read_text() == "a\nb\n"


def test_a_result_that_cannot_be_kept_costs_neither_the_others_nor_the_exit_code(
    vm_net: Net, busybox: Path, tmp_path: Path
) -> None:
    done = job(
        vm_net, busybox, "--backend", "docker", "--output", f"bad/:{tmp_path}/bad", "--output", f"good:{tmp_path}/good",
        "--", "sh", "-c", "mkdir bad; ln -s /etc/passwd bad/out; echo done > good; exit 7",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "bad is not kept: the link 'out' leads out" in done.stderr
    assert (tmp_path / "good").read_text() == "done\n"


def _images() -> list[str]:
    """Debian's, and Golem's own alpine.gvmi where somebody says where it is (it is in no package registry)."""
    return ["debian", *(["alpine"] if "GOLEMP2P_ALPINE_GVMI" in os.environ else [])]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", _images())
def test_an_image_that_nobody_here_made_runs_its_own_package_tools(
    vm_net: Net, name: str, backend: str, tmp_path: Path
) -> None:
    if name == "alpine":
        image, script, expected = Path(os.environ["GOLEMP2P_ALPINE_GVMI"]), "apk --version; apk info -v", "musl-"
    else:
        image, expected = debian_gvmi(), "hello, a package"
        # Built, installed, run and removed by the image's own tools.
        control = "Package: say\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: x\\n"
        script = (
            "mkdir -p p/DEBIAN p/usr/bin; echo 'echo hello, a package' > p/usr/bin/say;"
            f"chmod 755 p/usr/bin/say p/DEBIAN; printf '{control}' > p/DEBIAN/control;"
            "dpkg-deb --build p say.deb && dpkg -i say.deb && sh /usr/bin/say && dpkg -l say && dpkg -r say"
        )
    done = job(vm_net, image, "--backend", backend, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr + done.stdout
    assert expected in done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_that_runs_out_is_137_with_the_reason(vm_net: Net, busybox: Path, backend: str) -> None:
    done = job(vm_net, busybox, "--backend", backend, "--memory", "64m", "--", "bomb")
    assert done.returncode == 137, done.stderr
    assert "memory" in done.stderr
    done = job(vm_net, busybox, "--backend", backend, "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 137, done.stderr
    assert "memory" not in done.stderr
    assert "signal 9" in done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_endless_output_to_a_slow_reader_ends_with_the_timeout(vm_net: Net, busybox: Path, backend: str) -> None:
    node = vm_net.requestor
    command = [
        *("golemp2p", "job", "run", "--image", str(busybox), "--backend", backend, "--timeout", "8", "--", "flood")
    ]
    with subprocess.Popen(
        [*GOLEMP2P, *command[1:]],
        env=environment(GOLEMP2P_DATA_DIR=str(node.data_dir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1_000_000)) == 1_000_000
        time.sleep(2)  # we read nothing: the payload must wait, nobody may collect it in memory
        memory = _rss_mib(int(vm_net.providers[0].facts["pid"])), _rss_mib(int(node.facts["pid"]))
        while process.stdout.read(1 << 20):
            pass
        assert process.wait(60) == 124, process.stderr.read().decode()
    assert max(memory) < 400


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broken_image_and_an_unknown_command_say_what_is_wrong(
    vm_net: Net, busybox: Path, backend: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gvmi"
    broken.write_bytes(busybox.read_bytes()[:200_000])
    done = job(vm_net, broken, "--backend", backend, "--", "true")
    assert done.returncode not in (0, 124), done.stderr
    assert "squashfs" in done.stderr
    done = job(vm_net, busybox, "--backend", backend, "--", "no-such-program")
    assert done.returncode not in (0, 124), done.stderr
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_machine_says_what_it_can_run(vm_net: Net) -> None:
    done = vm_net.providers[0].command("runtime", "list", "--json")
    lines = {line["id"]: line for line in json.loads(done.stdout)}
    assert {"wasmtime", "vm/docker", "vm/qemu"} <= set(lines)
    assert lines["vm/qemu"]["works"], lines["vm/qemu"]
    assert lines["vm/qemu"]["isolation"] == "microvm"
    assert lines["vm/qemu"]["measured"]["cpu_score"] > 1
    offers = json.loads(vm_net.requestor.command("offers", "--json").stdout)
    assert {o["properties"].get("golem.!exp.golemp2p.isolation") for o in offers} == {"wasm", "container", "microvm"}


def _containers(engine: Engine) -> list[str]:
    import docker

    client = docker.DockerClient(engine.url)
    try:
        return [one.id for one in client.containers.list(filters={"label": "golemp2p.activity"})]
    finally:
        client.close()


class Running:
    """A job of the command line that has said its first word and goes on for ever."""

    def __init__(self, net: Net, image: Path, backend: str) -> None:
        self.process = subprocess.Popen(
            # --wait: after its provider is lost it looks for another one for so long before it gives up.
            [*GOLEMP2P, "job", "run", "--image", str(image), "--backend", backend, "--wait", "6", "--", "tick-loop"],
            env=environment(GOLEMP2P_DATA_DIR=str(net.requestor.data_dir)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"tick\n"
        self.since = time.monotonic()

    def end(self) -> tuple[int, str, float]:
        """(exit code, stderr, seconds since the first word)."""
        with self.process:
            _, stderr = self.process.communicate(timeout=90)
        return self.process.returncode, stderr.decode(), time.monotonic() - self.since


def test_an_engine_that_stops_fails_the_job_with_the_reason_and_serves_the_next_when_it_is_back(
    vm_net: Net, engine: Engine, busybox: Path
) -> None:
    running = Running(vm_net, busybox, "docker")
    engine.stop()
    code, words, seconds = running.end()
    assert code not in (0, 124), words
    assert "container" in words
    assert seconds < 40
    engine.start()
    done = job(vm_net, busybox, "--backend", "docker", "--", "echo", "back")
    assert done.stdout == "back\n", done.stderr


def test_a_machine_that_is_killed_fails_the_job_at_once_with_the_reason(vm_net: Net, busybox: Path) -> None:
    running = Running(vm_net, busybox, "qemu")
    for machine in _machines(vm_net.providers[0]):
        os.kill(machine, signal.SIGKILL)
    code, words, seconds = running.end()
    assert code not in (0, 124), words
    assert "machine" in words or "qemu" in words, words
    assert seconds < 20


def test_a_provider_that_is_killed_leaves_nothing_running_and_the_requestor_is_told(
    vm_net: Net, engine: Engine, busybox: Path
) -> None:
    provider = vm_net.providers[0]
    jobs = [Running(vm_net, busybox, backend) for backend in BACKENDS]
    machines = _machines(provider)
    assert machines
    provider.kill()
    for running in jobs:
        code, words, _ = running.end()
        assert code not in (0, 124), words
        assert "provider" in words
    provider.start()
    wait_until(lambda: not _containers(engine), what="the container to be gone", timeout_s=30)
    wait_until(lambda: not any(alive(pid) for pid in machines), what="the machine to be gone", timeout_s=30)
    assert not list((provider.data_dir / "work").iterdir())
    for backend in BACKENDS:
        wait_until(lambda which=backend: _offered(vm_net, which), what="the offer to be back", timeout_s=60)
        done = job(vm_net, busybox, "--backend", backend, "--", "echo", "back")
        assert done.stdout == "back\n", done.stderr


def _machines(provider: NodeProcess) -> list[int]:
    """The qemu processes of this provider's activities."""
    activities = [path.name for path in (provider.data_dir / "work").iterdir()]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "qemu-system" in words[0] and any(activity in word for activity in activities for word in words):
            found.append(int(process.name))
    return found


def _offered(net: Net, backend: str) -> bool:
    offers = json.loads(net.requestor.command("offers", "--json").stdout)
    return any(o["properties"].get("golem.!exp.golemp2p.backend") == backend for o in offers)
