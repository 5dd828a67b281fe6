"""Runtimes of third parties: the example packages in tests/packages, installed as anybody would, and bad ones."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import UsageError
from golemp2p.net.memory import MemoryHub
from golemp2p.runtimes.base import Deployment, Limits, Runtime, RuntimeFailureError, RuntimeInstance
from golemp2p.runtimes.custom import installed, load_custom
from golemp2p.runtimes.custom.sessions import marked
from tests.integration.activity.harness import Pair, open_node
from tests.integration.runtimes.contract import MIB, Output, Payload, Payloads, RuntimeContract

PACKAGES: Final = Path(__file__).parents[2] / "packages"
SCRIPT: Final = b"""#!/bin/sh
what=$1
shift
case $what in
hello) echo hello; echo oops >&2 ;;
exit) exit "$1" ;;
echo) printf '%s\\n' "$@"; env ;;
loop) while :; do :; done ;;
tick) echo tick; while :; do :; done ;;
flood) exec yes ;;
bomb) exec python3 -c 'bytearray(100 << 20)' ;;
background) sleep 1000 & echo started; setsid sleep 1000 & ;;
files) cat in.txt >out.txt ;;
esac
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example packages, installed by pip into a directory of their own."""
    target = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    names = [str(PACKAGES / name) for name in ("golemp2p-runtime-echo", "golemp2p-runtime-shell")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(target), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip could not install the example runtimes: {done.stderr}"
    return target


@pytest.fixture
def on_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(site))
    return site


def shell_settings(site: Path) -> dict[str, Any]:
    return {"command": str(site / "bin" / "golemp2p-runtime-shell"), "env": {"PYTHONPATH": str(site)}}


class ShellPayloads:
    hello = Payload(SCRIPT, "hello")
    exit_3 = Payload(SCRIPT, "exit", ("3",))
    echo = Payload(SCRIPT, "echo")
    loop = Payload(SCRIPT, "loop")
    tick_loop = Payload(SCRIPT, "tick")
    bomb = Payload(SCRIPT, "bomb")
    flood = Payload(SCRIPT, "flood")
    broken = b"\x7fELF"


class TestExecutable(RuntimeContract):
    @pytest.fixture
    def payloads(self) -> ShellPayloads:
        return ShellPayloads()

    @pytest.fixture
    def runtime(self, site: Path, tmp_path: Path) -> Runtime:
        return load_custom("shell", shell_settings(site), tmp_path / "cache", tmp_path)

    async def test_a_memory_bomb_is_told_apart(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        """Weaker than the contract's on purpose: a limit of resources makes an allocation fail, and what a program
        does then is its own; only the executable itself could know that memory was the reason."""
        async with self.deployed(runtime, payloads.bomb, tmp_path, Limits(memory_bytes=64 * MIB)) as instance:
            status, output = await self.run(instance, payloads.bomb)
            assert status.code != 0
            assert b"MemoryError" in output.stderr
            assert instance.usage().memory_peak_bytes < 200 * MIB

    async def test_background_children_neither_hold_up_the_end_nor_outlive_the_instance(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        payload = Payload(SCRIPT, "background")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            for _ in range(2):
                with trio.fail_after(10):
                    status, output = await self.run(instance, payload)
                assert (status.code, bytes(output.stdout)) == (0, b"started\n")
            with trio.fail_after(10):
                while len(list(marked(tmp_path / "instance"))) < 4:  # noqa: ASYNC110 - no event: one may be in an exec
                    await trio.sleep(0.01)
            await instance.terminate()
            assert list(marked(tmp_path / "instance")) == []

    async def test_what_a_killed_node_left_is_found_at_the_next_start(self, runtime: Runtime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(SCRIPT), tmp_path) as instance:
            await self.run(instance, Payload(SCRIPT, "background"))
            assert list(marked(tmp_path / "instance"))
            await runtime.clean_up()
            assert list(marked(tmp_path, below=True)) == []

    async def test_files_go_in_and_out(self, runtime: Runtime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(SCRIPT), tmp_path) as instance:
            (tmp_path / "in").write_bytes(b"content")
            await instance.files.put("/golem/work/in.txt", tmp_path / "in")
            status, _ = await self.run(instance, Payload(SCRIPT, "files"))
            assert status.code == 0
            async with instance.files.reading("/golem/work/out.txt", max_bytes=100) as path:
                assert path.read_bytes() == b"content"

    async def test_variables_of_the_requestor_do_not_reach_the_executable_itself(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        evil = {"PYTHONPATH": "/nowhere", "LD_PRELOAD": "/nowhere.so", "PATH": "/nowhere"}
        async with self.deployed(runtime, Payload(SCRIPT), tmp_path, env=evil) as instance:
            status, output = await self.run(instance, Payload(SCRIPT, "hello"))
            assert (status.code, bytes(output.stdout)) == (0, b"hello\n")

    async def test_a_probe_asks_test_and_offer_template(self, runtime: Runtime) -> None:
        probe = await runtime.probe()
        assert (probe.works, probe.reason) == (True, "")
        assert probe.measured["test_s"] > 0
        assert runtime.offer_properties()["golem.runtime.capabilities"] == ["shell"]


FAKE: Final = """#!/bin/sh
for word; do case $word in deploy|start|run|test|offer-template) what=$word ;; esac; done
case $what in %s
*) exit 0 ;;
esac
"""


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ("deploy) echo no ;;", "no JSON"),
        ("deploy) echo '[]' ;;", "no object"),
        ("deploy) echo broken >&2; exit 4 ;;", "status 4: broken"),
        ("""deploy) echo '{"valid": {"Err": "wrong image"}}' ;;""", "refused the package: wrong image"),
        ("""deploy) echo '{"startMode": "blocking", "valid": {"Ok": ""}}' ;;""", "start mode 'blocking'"),
        ("""deploy) echo '{"startMode": "odd"}' ;;""", "start mode is 'odd'"),
        ("""deploy) echo '{"vols": [{"name": "../../etc", "path": "/a"}]}' ;;""", "no directory name"),
        ("""deploy) echo '{"vols": [{"name": "a", "path": "/a/../.."}]}' ;;""", "no absolute path"),
        ("""deploy) echo '{"vols": []}' ;;""", "does not give the volume '/data'"),
        ("deploy) sleep 1000 ;;", "did not end within"),
        ("deploy) yes ;;", "did not end within"),
        ("deploy) echo '{}';; start) exit 9 ;;", "does not give the volume"),
    ],
)
async def test_an_executable_that_misbehaves_is_a_clear_error(
    tmp_path: Path, answers: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CUSTOM_DEPLOY_S", 1.0)
    program = tmp_path / "fake"
    program.write_text(FAKE % answers)
    program.chmod(0o755)
    runtime = load_custom("fake", {"command": [str(program)]}, tmp_path / "cache", tmp_path)
    with pytest.raises(RuntimeFailureError, match=complaint):
        async with RuntimeContract().deployed(runtime, Payload(b"x"), tmp_path, volumes=("/data",)):
            pass
    assert list(marked(tmp_path / "instance")) == []


async def test_an_executable_whose_test_fails_is_not_offered(tmp_path: Path) -> None:
    program = tmp_path / "fake"
    program.write_text(FAKE % "test) echo no hypervisor >&2; exit 1 ;;")
    program.chmod(0o755)
    probe = await load_custom("fake", {"command": str(program)}, tmp_path, tmp_path).probe()
    assert not probe.works
    assert "no hypervisor" in probe.reason
    assert str(program) in probe.hint


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"command": "golemp2p-runtime-shell"}, "absolute path"),
        ({"command": "/etc/passwd"}, "no executable"),
        ({"command": 3}, "neither a path nor a list"),
        ({"command": "/bin/true", "colour": "red"}, "colour is unknown"),
        ({"command": "/bin/true", "env": {"A": 1}}, "table of texts"),
        ({}, "there is no runtime 'fake'"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_custom("fake", settings, tmp_path, tmp_path)


# --- Python packages --------------------------------------------------------------------------------------------------

ECHO_PACKAGE: Final = b"#!echo\n"


class EchoPayloads:
    hello = Payload(ECHO_PACKAGE, "both", ("hello", "oops"))
    exit_3 = Payload(ECHO_PACKAGE, "exit", ("3",))
    echo = Payload(ECHO_PACKAGE, "out")
    loop = Payload(ECHO_PACKAGE, "count")
    tick_loop = Payload(ECHO_PACKAGE, "count", ("tick",))
    bomb = flood = loop
    broken = b"no echo"


# The echo runtime runs no process, so what the contract says of processes says nothing of it.
NOT_FOR_ECHO: Final = {
    "test_the_wall_limit_ends_an_endless_loop": "it measures CPU time of the payload",
    "test_the_cpu_limit_ends_an_endless_loop": "it uses none",
    "test_a_memory_bomb_is_told_apart": "it takes no memory",
    "test_a_slow_reader_slows_the_program": "it measures CPU time of the payload",
    "test_usage_never_decreases": "it must grow there",
    "test_usage_is_what_the_program_used": "it uses no CPU time",
}
CONTRACT: Final = {name: function for name, function in inspect.getmembers(RuntimeContract) if name.startswith("test_")}


def test_every_exception_from_the_contract_is_one() -> None:
    assert NOT_FOR_ECHO.keys() <= CONTRACT.keys()


@pytest.mark.parametrize("name", sorted(CONTRACT.keys() - NOT_FOR_ECHO.keys()))
async def test_the_contract_holds_for_a_python_runtime(
    name: str, on_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {
        "runtime": load_custom("echo", {}, tmp_path / "cache", tmp_path),
        "payloads": EchoPayloads(),
        "tmp_path": tmp_path,
        "monkeypatch": monkeypatch,
    }
    function = CONTRACT[name]
    arguments = [given[parameter] for parameter in list(inspect.signature(function).parameters)[1:]]
    waiting: Awaitable[None] | None = function(RuntimeContract(), *arguments)
    if waiting is not None:
        await waiting


async def test_settings_reach_a_python_runtime(on_path: Path, tmp_path: Path) -> None:
    assert "echo" in installed()
    runtime = load_custom("echo", {"greeting": "good day"}, tmp_path / "cache", tmp_path)
    contract = RuntimeContract()
    async with contract.deployed(runtime, EchoPayloads.echo, tmp_path) as instance:
        _, output = await contract.run(instance, EchoPayloads.echo, ["word"])
        assert bytes(output.stdout) == b"good day\nword\n"
    with pytest.raises(UsageError, match=r"package golemp2p-runtime-echo 0\.1\.0 cannot be made: TypeError: greeting"):
        load_custom("echo", {"greeting": 3}, tmp_path / "cache", tmp_path)


def a_package(directory: Path, body: str) -> None:
    """An installed package whose entry point ``bad`` is ``bad_runtime:make``."""
    (directory / "bad_runtime.py").write_text(body)
    info = directory / "bad_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[golemp2p.runtimes]\nbad = bad_runtime:make\n")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("1 / 0", "bad-runtime 1.0 cannot be made: ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "cannot be made: SystemExit: 3"),
        ("from nowhere import nothing", "ModuleNotFoundError"),
        ("other = 1", "cannot be made: AttributeError"),
        ("def make(context):\n    raise KeyError('x')", "KeyError"),
        ("def make(context):\n    return object()", "is no runtime: it has no id, name"),
    ],
)
def test_a_package_that_does_not_work_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, complaint: str
) -> None:
    a_package(tmp_path, body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_runtime", raising=False)
    with pytest.raises(UsageError, match=complaint):
        load_custom("bad", {}, tmp_path, tmp_path)


BAD_RUNTIME: Final = """
from golemp2p.runtimes.base import Usage
class Bad:
    id = name = "bad"
    version = "1"
    def offer_properties(self):
        return {"golem.runtime.name": "vm", "golem.inf.mem.gib": 1e9, "golem.com.pricing": "free", 3: 4, "mine": [1],
                "a.property": "kept"}
    async def probe(self): raise SystemExit("leave")
    async def clean_up(self): raise ValueError("clean_up")
    async def deploy(self, deployment):
        if deployment.hostname == "fail": raise ValueError("deploy")
        return Instance()
class Instance:
    told = iter([5.0, 1.0])
    @property
    def files(self): return self
    @property
    def volumes(self): raise ValueError("volumes")
    @property
    def disk(self): raise ValueError("disk")
    async def put(self, path, source): raise OSError("put")
    async def put_tree(self, path, source): raise OSError("put_tree")
    async def get_tree(self, path, target, *, max_bytes, max_files): raise OSError("get_tree")
    def reading(self, path, *, max_bytes): raise OSError("reading")
    async def start(self, args): raise KeyError("start")
    async def run(self, entry_point, args, output):
        if entry_point == "odd": return 0
        raise SystemExit(0)
    async def connect(self, port): raise ValueError("connect")
    async def lost(self): raise ValueError("lost")
    def usage(self): return Usage(cpu_s=next(self.told))
    async def terminate(self): raise ValueError("terminate")
def make(context): return Bad()
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    a_package(tmp_path, BAD_RUNTIME)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_runtime", raising=False)
    return load_custom("bad", {}, tmp_path, tmp_path)


async def test_whatever_a_python_runtime_raises_becomes_an_error_with_its_name(bad: Runtime, tmp_path: Path) -> None:
    assert "SystemExit: leave" in (await bad.probe()).reason
    await bad.clean_up()
    contract = RuntimeContract()
    with pytest.raises(RuntimeFailureError, match=r"bad-runtime 1\.0 failed in deploy: ValueError"):
        async with contract.deployed(bad, Payload(b""), tmp_path, hostname="fail"):
            pass
    (tmp_path / "instance").rmdir()
    with pytest.raises(RuntimeFailureError, match="failed in start: KeyError"):  # and terminate's error is only logged
        async with contract.deployed(bad, Payload(b""), tmp_path):
            pass


async def test_an_instance_of_a_bad_runtime_cannot_break_the_node(bad: Runtime, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        instance: RuntimeInstance = await bad.deploy(Deployment("a", tmp_path, "", tmp_path, nursery))
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "run": lambda: instance.run("x", [], Output()),
        "connect": lambda: instance.connect(1),
        "put": lambda: instance.files.put("/a", tmp_path),
        "put_tree": lambda: instance.files.put_tree("/a", tmp_path),
        "get_tree": lambda: instance.files.get_tree("/a", tmp_path, max_bytes=1, max_files=1),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeFailureError, match=f"failed in {name}: "):
            await call()
    with pytest.raises(RuntimeFailureError, match="failed in reading"):
        async with instance.files.reading("/a", max_bytes=1):
            pass
    with pytest.raises(RuntimeFailureError, match="run gave int, not an ExitStatus"):
        await instance.run("odd", [], Output())
    for read in (lambda: instance.files.volumes, lambda: instance.disk):
        with pytest.raises(RuntimeFailureError, match="ValueError"):
            read()
    assert "ValueError: lost" in await instance.lost()
    assert [instance.usage().cpu_s for _ in range(3)] == [5.0, 5.0, 5.0]  # never down, whatever it says
    await instance.terminate()


def test_a_runtime_says_nothing_of_hardware_and_prices(bad: Runtime) -> None:
    assert bad.offer_properties() == {
        "golem.runtime.name": "bad",
        "golem.runtime.version": "1",
        "golem.!exp.golemp2p.isolation": "unknown",
        "a.property": "kept",
    }


def test_the_examples_import_what_is_public(on_path: Path) -> None:
    """What an author may rely on is documented: the port, the context, the file helpers."""
    source = (on_path / "golemp2p_runtime_echo" / "__init__.py").read_text()
    allowed = {"golemp2p.runtimes.base", "golemp2p.runtimes.custom", "golemp2p.runtimes.hostfiles"}
    assert {line.split()[1] for line in source.splitlines() if line.startswith("from golemp2p")} <= allowed


async def test_a_requestor_uses_an_executable_runtime_and_nothing_is_left(site: Path, tmp_path: Path) -> None:
    hub = MemoryHub()
    work_root = tmp_path / "p" / "activities"
    runtime = load_custom("shell", shell_settings(site), tmp_path / "cache", work_root)
    async with (
        open_node(hub, tmp_path / "r", {}) as requestor,
        open_node(hub, tmp_path / "p", {"shell": runtime}) as provider,
    ):
        await requestor.network.connect(provider.network.addresses()[0])
        pair = Pair(hub, requestor, provider)
        url, _ = await pair.publish(SCRIPT, tmp_path)
        agreement = pair.agree(url)
        for node in (requestor, provider):
            known = node.agreements[agreement]
            offer = {**known.offer, "golem.runtime.name": "shell"}
            node.agreements[agreement] = replace(known, offer=offer, demand=known.demand)
        service = requestor.service.requestor
        activity = await service.live_activity(await service.create(agreement, timeout_s=30))
        run = {"entry_point": "background", "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}}}
        echo = {**run, "entry_point": "echo", "args": ["a word"]}
        script = [{"deploy": {"env": {"COLOUR": "red"}}}, {"start": {}}, {"run": run}, {"run": echo}]
        results = await activity.batch(activity.exec(json.dumps(script))).results(30)
        assert [result.ok for result in results] == [True] * 4, results[-1].message
        assert results[2].stdout == "started\n"
        assert isinstance(results[3].stdout, str)
        assert {"a word", "COLOUR=red"} <= set(results[3].stdout.splitlines())
        assert list(marked(work_root, below=True))
        await activity.destroy(10)
        assert list(marked(work_root, below=True)) == []
