"""What every runtime must do, as tests. A runtime's test module derives from :class:`RuntimeContract` and says how its
payloads are made; issue 3's runtimes reuse it as it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
import trio
import trio.testing

from golemp2p.activity.disk import used_bytes
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import (
    Deployment,
    EndReason,
    ExitStatus,
    Limits,
    Runtime,
    RuntimeFailureError,
    RuntimeInstance,
)
from golemp2p.runtimes.volumes import GuestPathError

MIB = 1024 * 1024
NO_LIMITS = Limits()


@dataclass
class Output:
    """An OutputSink that collects; ``seen`` fires at the first chunk."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    seen: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, stream: str, data: bytes) -> None:
        (self.stdout if stream == "stdout" else self.stderr).extend(data)
        self.seen.set()


@dataclass(frozen=True)
class Payload:
    """A package and how to call the program in it."""

    package: bytes
    entry_point: str = "main"
    args: tuple[str, ...] = ()


class Payloads(Protocol):
    """The programs that a runtime's test module provides."""

    hello: Payload  # "hello\n" to stdout, "oops\n" to stderr
    exit_3: Payload
    echo: Payload  # arguments and environment somewhere in stdout
    loop: Payload  # never ends by itself
    tick_loop: Payload  # "tick\n", then never ends
    bomb: Payload  # takes all memory it gets
    flood: Payload  # endless stdout
    broken: bytes  # no package at all


@asynccontextmanager
async def unwrapped() -> AsyncIterator[None]:
    """The one exception that a nursery's body raised, as it was."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


class RuntimeContract:
    """Fixtures ``runtime`` and ``payloads`` come from the module that derives from this."""

    cpu_bounds = (0.5, 1.35)  # what is billed of what a program used; a limit that is polled comes a little late

    @asynccontextmanager
    async def deployed(
        self, runtime: Runtime, payload: Payload, tmp_path: Path, limits: Limits = NO_LIMITS, **extra: object
    ) -> AsyncIterator[RuntimeInstance]:
        package = tmp_path / "package"
        package.write_bytes(payload.package)
        work = tmp_path / "instance"
        work.mkdir()
        async with unwrapped(), trio.open_nursery() as nursery:
            instance = await runtime.deploy(
                Deployment(
                    "a" * 32,
                    package,
                    hashlib.sha256(payload.package).hexdigest(),
                    work,
                    nursery,
                    limits,
                    **extra,  # type: ignore[arg-type] # env and volumes, as given by the test
                )
            )
            try:
                await instance.start([])
                yield instance
            finally:
                with trio.CancelScope(shield=True), trio.fail_after(10):
                    await instance.terminate()
                nursery.cancel_scope.cancel()

    async def run(
        self, instance: RuntimeInstance, payload: Payload, args: Sequence[str] = ()
    ) -> tuple[ExitStatus, Output]:
        output = Output()
        with trio.fail_after(30):
            status = await instance.run(payload.entry_point, [*payload.args, *args], output)
        return status, output

    async def test_stdout_stderr_and_the_exit_code_come_back(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.hello, tmp_path) as instance:
            status, output = await self.run(instance, payloads.hello)
            assert (status.code, status.reason) == (0, EndReason.EXITED)
            assert (bytes(output.stdout), bytes(output.stderr)) == (b"hello\n", b"oops\n")

    async def test_the_programs_own_exit_code_is_passed_on(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.exit_3, tmp_path) as instance:
            for _ in range(2):  # an instance runs any number of commands
                status, _output = await self.run(instance, payloads.exit_3)
                assert (status.code, status.reason) == (3, EndReason.EXITED)

    async def test_arguments_and_environment_arrive(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        async with self.deployed(runtime, payloads.echo, tmp_path, env={"COLOUR": "grün"}) as instance:
            _status, output = await self.run(instance, payloads.echo, ["one", "two words", "drei€"])
            for expected in ("one", "two words", "drei€", "COLOUR=grün"):
                assert expected.encode() in output.stdout

    async def test_the_nodes_environment_does_not_leak(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOLEMP2P_PASSWORD", "tell nobody")
        async with self.deployed(runtime, payloads.echo, tmp_path) as instance:
            _status, output = await self.run(instance, payloads.echo)
            assert b"tell nobody" not in output.stdout

    async def test_the_wall_limit_ends_an_endless_loop(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.loop, tmp_path, Limits(wall_s=0.4)) as instance:
            status, _output = await self.run(instance, payloads.loop)
            assert status.reason is EndReason.WALL_LIMIT
            assert "0.4 s" in status.message
            assert instance.usage().cpu_s > 0.1

    async def test_the_cpu_limit_ends_an_endless_loop(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.loop, tmp_path, Limits(cpu_s=1.0)) as instance:
            status, _output = await self.run(instance, payloads.loop)
            assert status.reason is EndReason.CPU_LIMIT

    async def test_a_memory_bomb_is_told_apart(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        async with self.deployed(runtime, payloads.bomb, tmp_path, Limits(memory_bytes=64 * MIB)) as instance:
            status, _output = await self.run(instance, payloads.bomb)
            assert (status.code, status.reason) == (137, EndReason.OUT_OF_MEMORY)
            assert "64 MiB" in status.message
            assert instance.usage().memory_peak_bytes < 200 * MIB

    async def test_output_arrives_while_the_program_runs(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.tick_loop, tmp_path) as instance, trio.open_nursery() as nursery:
            output = Output()
            nursery.start_soon(instance.run, payloads.tick_loop.entry_point, payloads.tick_loop.args, output)
            with trio.fail_after(20):
                await output.seen.wait()
            assert bytes(output.stdout) == b"tick\n"
            nursery.cancel_scope.cancel()

    async def test_cancelling_a_run_kills_its_process(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.tick_loop, tmp_path) as instance:
            output = Output()
            with trio.fail_after(20), trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(instance.run, payloads.tick_loop.entry_point, payloads.tick_loop.args, output)
                    await output.seen.wait()
                    scope.cancel()
            used_s = instance.usage().cpu_s
            for _ in range(10):
                await trio.sleep(0.01)
            assert instance.usage().cpu_s - used_s < 0.04  # nothing burns on; a supervisor within may tick

    async def test_a_slow_reader_slows_the_program(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        taken = 0

        async def sip(_stream: str, data: bytes) -> None:
            nonlocal taken
            taken += len(data)
            await trio.sleep(0.05)

        async with self.deployed(runtime, payloads.flood, tmp_path) as instance:
            started_s = instance.usage().cpu_s  # booting a machine takes its time, too
            with trio.move_on_after(1.0):
                await instance.run(payloads.flood.entry_point, payloads.flood.args, sip)
            assert 0 < taken < 25 * 256 * 1024  # what fits in the pipes, not what a core can write
            assert instance.usage().cpu_s - started_s < 0.6

    async def test_usage_never_decreases(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        async with self.deployed(runtime, payloads.loop, tmp_path, Limits(wall_s=0.5)) as instance:
            seen = [instance.usage().cpu_s]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(instance.run, payloads.loop.entry_point, payloads.loop.args, Output())
                for _ in range(40):
                    await trio.sleep(0.02)
                    seen.append(instance.usage().cpu_s)
            assert seen == sorted(seen)
            assert seen[-1] > 0

    async def test_usage_is_what_the_program_used(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        """A run that is ended at two CPU seconds has used two, whatever else the machine does."""
        async with self.deployed(runtime, payloads.loop, tmp_path, Limits(cpu_s=2.0)) as instance:
            before = instance.usage().cpu_s  # booting a machine takes its time, too
            await self.run(instance, payloads.loop)
            used = instance.usage()
            least, most = self.cpu_bounds
            assert 2.0 * least < used.cpu_s - before < 2.0 * most
            await instance.terminate()
            assert instance.usage().cpu_s >= used.cpu_s  # what was used stays to be paid

    async def test_files_go_in_and_come_out_as_they_were(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        content = os.urandom(3 * MIB)
        source = tmp_path / "source"
        async with self.deployed(runtime, payloads.hello, tmp_path, volumes=("/data",)) as instance:
            for path in ("/golem/work/deep/er/file", "/data/ä b:c"):
                for data in (b"", content, content[:100]):  # each replaces the one before
                    source.write_bytes(data)
                    await instance.files.put(path, source)
                    async with instance.files.reading(path, max_bytes=len(data)) as found:
                        assert await trio.Path(found).read_bytes() == data
                with pytest.raises(UsageError, match="99"):
                    async with instance.files.reading(path, max_bytes=99):
                        pass
            status, _ = await self.run(instance, payloads.hello)
            assert status.code == 0

    async def test_paths_lead_to_files_in_volumes_and_nowhere_else(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x")
        async with self.deployed(runtime, payloads.hello, tmp_path) as instance:
            for path in (
                "/etc/x",
                "/golem/work/../x",
                "/golem/work",
                "/golem/workshop/x",
                "relative",
                "/golem/work/\0",
            ):
                with pytest.raises(GuestPathError):
                    await instance.files.put(path, source)
                with pytest.raises(GuestPathError):
                    async with instance.files.reading(path, max_bytes=10):
                        pass
            with pytest.raises(GuestPathError, match="no-such"):
                async with instance.files.reading("/golem/work/no-such", max_bytes=10):
                    pass

    async def test_directories_go_in_and_come_out_as_they_were(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        tree, out = tmp_path / "tree", tmp_path / "out"
        (tree / "deep" / "empty").mkdir(parents=True)
        (tree / "deep" / "ä b").write_bytes(b"content")
        (tree / "program").write_bytes(b"#!")
        (tree / "program").chmod(0o755)
        (tree / "link").symlink_to("deep/ä b")
        async with self.deployed(runtime, payloads.hello, tmp_path) as instance:
            await instance.files.put_tree("/golem/work/in", tree)
            await instance.files.get_tree("/golem/work/in", out, max_bytes=100, max_files=10)
            assert (out / "deep" / "empty").is_dir()
            assert (out / "link").readlink() == Path("deep/ä b")
            assert (out / "link").read_bytes() == b"content"
            assert (out / "program").stat().st_mode & 0o777 == 0o755
            for bounds in ({"max_bytes": 5, "max_files": 10}, {"max_bytes": 100, "max_files": 2}):
                with pytest.raises(UsageError):
                    await instance.files.get_tree("/golem/work/in", tmp_path / f"out{bounds}", **bounds)

    async def test_what_is_put_counts_as_disk(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(os.urandom(8 * MIB))
        async with self.deployed(runtime, payloads.hello, tmp_path, Limits(storage_bytes=64 * MIB)) as instance:
            before = used_bytes(instance.disk, enough_bytes=2**40)
            await instance.files.put("/golem/work/file", source)
            await self.run(instance, payloads.hello)
            # The host's kernel writes to a mounted volume's file after half a minute; what is counted is there then.
            await trio.to_thread.run_sync(os.sync)
            with trio.fail_after(45):  # a guest's kernel may keep it in memory for a while
                while not 8 * MIB <= used_bytes(instance.disk, enough_bytes=2**40) - before < 12 * MIB:  # noqa: ASYNC110
                    await trio.sleep(0.1)

    async def test_a_port_where_nobody_listens_is_refused_at_once(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.hello, tmp_path) as instance:
            with trio.fail_after(30), pytest.raises(RuntimeFailureError):
                await instance.connect(4321)

    async def test_what_lives_is_not_lost(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        reasons: list[str] = []
        async with self.deployed(runtime, payloads.hello, tmp_path) as instance, trio.open_nursery() as nursery:

            async def listen() -> None:
                reasons.append(await instance.lost())

            nursery.start_soon(listen)
            await self.run(instance, payloads.hello)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not reasons
            nursery.cancel_scope.cancel()

    async def test_a_broken_package_is_refused(self, runtime: Runtime, payloads: Payloads, tmp_path: Path) -> None:
        with pytest.raises(RuntimeFailureError):
            async with self.deployed(runtime, Payload(payloads.broken), tmp_path):
                pass

    async def test_volumes_exist_and_terminate_can_be_repeated(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        async with self.deployed(runtime, payloads.hello, tmp_path, volumes=("/data/in",)) as instance:
            assert {"/golem/work", "/data/in"} <= set(instance.files.volumes)
            await instance.terminate()

    def test_the_offer_names_the_runtime_and_its_isolation(self, runtime: Runtime) -> None:
        offer = runtime.offer_properties()
        assert offer["golem.runtime.name"] == runtime.name
        assert offer["golem.runtime.version"] == runtime.version
        assert offer["golem.!exp.golemp2p.isolation"]
