"""What of the qemu backend needs no machine: the initramfs archive, the meter, the command's fences."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.qemu import prepare
from golemp2p.runtimes.qemu.meter import CpuMeter


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """(mode, data) by name of a newc archive, read by the format's own rules."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + fields[11]
        name = archive[at + 110 : name_end - 1].decode()
        begin = -(-name_end // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], archive[begin : begin + fields[6]]
        at = -(-(begin + fields[6]) // 4) * 4


def test_the_initramfs_holds_what_it_was_given_under_its_directories() -> None:
    archive = prepare.cpio({"init": b"program", "modules/a.ko": b"x" * 5, "modules/list": b"a.ko\n"})
    found = members(archive)
    assert list(found) == ["dev", "modules", "dev/console", "init", "modules/a.ko", "modules/list"]
    assert found["init"] == (0o100755, b"program")
    assert found["modules/a.ko"][1] == b"xxxxx"
    assert found["modules"][0] == 0o040755
    assert len(archive) % 4 == 0
    assert archive == prepare.cpio({"modules/list": b"a.ko\n", "modules/a.ko": b"x" * 5, "init": b"program"})


def test_what_is_no_packed_kernel_is_booted_as_it_is() -> None:
    for data in (b"", b"\x7fELF" + bytes(4096), bytes(4096)):
        assert prepare._decompressed(data) == data


def test_without_apt_the_missing_kernel_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeFailureError, match=r"no kernel.*vm\.kernel"):
        prepare.prepare(tmp_path / "cache")


def test_modules_are_collected_with_what_they_need_and_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "kernel").mkdir(parents=True)
    target.mkdir()
    for name, needs in (("virtio-pci", "virtio,virtio_ring"), ("virtio", ""), ("virtio_ring", "virtio")):
        (root / "kernel" / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + needs.encode() + b"\0")
    (root / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    monkeypatch.setattr(prepare, "MODULES", ("virtio_pci", "ext4"))
    assert prepare._collect(root, target) == ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko"]
    monkeypatch.setattr(prepare, "MODULES", ("squashfs",))
    with pytest.raises(RuntimeFailureError, match="no module squashfs"):
        prepare._collect(root, target)


async def test_idling_is_not_billed_and_work_is(autojump_clock: MockClock) -> None:
    burnt_s = 0.0
    meter = CpuMeter()
    assert meter.read() == 0
    meter.follow(lambda: burnt_s)
    burnt_s = 2.0  # the boot
    assert meter.read() == 2.0
    for _ in range(100):
        await trio.sleep(1)
        burnt_s += 0.02
        assert meter.read() == 2.0
    for _ in range(10):
        await trio.sleep(1)
        burnt_s += 0.9
        meter.read()
    assert meter.read() == pytest.approx(2.0 + 10 * 0.9, abs=0.05)
    burnt_s += 0.015
    meter.settle()  # the end of a command bills whatever it was
    assert meter.read() == pytest.approx(11.015, abs=0.05)


async def test_however_often_it_is_read_work_is_billed_whole(autojump_clock: MockClock) -> None:
    burnt_s = 0.0
    meter = CpuMeter()
    meter.follow(lambda: burnt_s)
    for _ in range(1000):
        await trio.sleep(0.01)
        burnt_s += 0.01
        meter.read()
    assert meter.read() == pytest.approx(10, abs=0.05)


async def test_a_machine_that_was_replaced_at_boot_is_not_billed(autojump_clock: MockClock) -> None:
    meter = CpuMeter()
    meter.follow(lambda: 25.0)
    meter.follow(lambda: 1.5)
    assert meter.read() == 1.5
