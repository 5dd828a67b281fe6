"""An image that has files where volumes are, and the contract of runtimes whose packages are such images."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

import pytest

from golemp2p.runtimes.base import Runtime
from golemp2p.runtimes.volumes import GuestPathError
from tests.integration.runtimes.busybox import make_rootfs, make_tar
from tests.integration.runtimes.contract import Payload, RuntimeContract
from tests.unit.images.making import docker_archive, tar

HELLO: Final = b"hello from the image\n"
SERVICE: Final = 999  # a user that no name has


def _entry(
    name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, owner: int = 0, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname, info.mtime = kind, mode, owner, owner, link, 1_000_000
    return info


def _dir(name: str, mode: int = 0o755, owner: int = 0) -> tuple[tarfile.TarInfo, bytes]:
    return _entry(name, tarfile.DIRTYPE, mode, owner), b""


def files() -> bytes:
    """A layer: some of everything in /golem/work, a service's own directory /data, an empty one, a link to a volume."""
    return tar(
        [
            _dir("golem"),
            _dir("golem/work"),
            (_entry("golem/work/hello.txt"), HELLO),
            (_entry("golem/work/tool", mode=0o4755), b"#!/bin/sh\necho tool\n"),
            (_entry("golem/work/theirs", mode=0o640, owner=SERVICE), b"x"),
            (_entry("golem/work/link", tarfile.SYMTYPE, link="hello.txt"), b""),
            (_entry("golem/work/out", tarfile.SYMTYPE, link="/etc/passwd"), b""),
            (_entry("golem/work/hard", tarfile.LNKTYPE, link="golem/work/hello.txt"), b""),
            (_entry("golem/work/pipe", tarfile.FIFOTYPE), b""),
            _dir("golem/work/deep"),
            _dir("golem/work/deep/er", 0o1777),
            (_entry("golem/work/deep/er/file"), b"deep\n"),
            _dir("data", 0o700, SERVICE),
            (_entry("data/seed", owner=SERVICE), b"s"),
            _dir("empty", 0o750, SERVICE),
        ]
    )


def seeded_image(directory: Path, **config: object) -> bytes:
    """A docker-archive of busybox and :func:`files`."""
    layers = [make_tar(make_rootfs(directory / "root")), files()]
    return docker_archive(layers, config={"WorkingDir": "/golem/work", "Volumes": {"/data": {}}, **config})


class ImageContract(RuntimeContract):
    root_is_mighty = True  # a payload's root may use what others own; else volumes are made its own

    async def test_volumes_start_with_what_the_image_has_there(self, runtime: Runtime, tmp_path: Path) -> None:
        look = (
            "cat hello.txt link; ./tool; cat deep/er/file; readlink out; "
            "stat -c '%n %a %u' hello.txt theirs deep/er /data /data/seed /empty; stat -c '%Y %h' hello.txt; "
            "ls /fresh; echo new > hello.txt; rm -r deep; mv theirs moved && touch here /data/here && ls"
        )
        payload = Payload(seeded_image(tmp_path), "sh", ("-c", look))
        owner = SERVICE if self.root_is_mighty else 0
        expected = [
            *["hello from the image"] * 2,
            *["tool", "deep", "/etc/passwd"],
            *["hello.txt 644 0", f"theirs 640 {SERVICE}", "deep/er 1777 0"],
            *[f"/data 700 {owner}", f"/data/seed 644 {SERVICE}", f"/empty 750 {owner}"],
            "1000000 2",  # two names of one file
            *["hard", "hello.txt", "here", "link", "moved", "out", "tool"],
        ]
        for life in ("first", "second"):  # each instance has its own
            async with self.deployed(runtime, payload, tmp_path, volumes=("/fresh", "/empty")) as instance:
                async with instance.files.reading("/golem/work/deep/er/file", max_bytes=10) as path:
                    assert path.read_bytes() == b"deep\n"
                with pytest.raises(GuestPathError):
                    async with instance.files.reading("/golem/work/out", max_bytes=10_000):
                        pass
                status, output = await self.run(instance, payload)
                said = [line for line in output.stdout.decode().splitlines() if line != "pipe"]
                assert said == expected, (said, bytes(output.stderr))
                assert status.code == 0
                source = tmp_path / "source"
                source.write_text("put")
                await instance.files.put("/golem/work/hello.txt", source)
                await instance.files.get_tree("/golem/work", tmp_path / life, max_bytes=10_000, max_files=20)
                assert (tmp_path / life / "hello.txt").read_text() == "put"
                assert (tmp_path / life / "tool").stat().st_mode & 0o777 == 0o755
            (tmp_path / "instance").rename(tmp_path / f"{life}-instance")

    async def test_the_images_user_may_write_in_a_volume_with_files_of_root(
        self, runtime: Runtime, tmp_path: Path
    ) -> None:
        payload = Payload(
            seeded_image(tmp_path, User="nobody"),
            "sh",
            ("-c", "cat hello.txt && touch mine && echo no > tool || id -u"),
        )
        async with self.deployed(runtime, payload, tmp_path) as instance:
            status, output = await self.run(instance, payload)
            assert (status.code, output.stdout.decode()) == (0, HELLO.decode() + "65534\n")
