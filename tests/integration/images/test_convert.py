"""Conversion by the real worker process and squashfs-tools."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from golemp2p import limits
from golemp2p.images import ImageCache, ImageError, convert_image, image_tag
from golemp2p.images.squashfs import SUPERBLOCK, SquashFs
from golemp2p.images.tarstream import EntryKind
from tests.unit.images.making import (
    docker_archive,
    gvmi,
    info,
    oci_archive,
    oci_blobs,
    sha256,
    small_tree,
    squashfs,
    tar,
)

BASE = tar(
    [
        (info("bin", tarfile.DIRTYPE, mode=0o755), b""),
        (info("bin/tool", mode=0o4755, uid=7), b"tool" * 1000),
        (info("bin/sh", tarfile.SYMTYPE, link="tool"), b""),
        (info("bin/same", tarfile.LNKTYPE, link="bin/tool"), b""),
        (info("dev-null", tarfile.CHRTYPE), b""),
        ("etc/old", b"old"),
        ("etc/gone", b"gone"),
    ]
)
TOP = tar([("etc/old", b"new"), ("etc/.wh.gone", b""), (info("tmp", tarfile.DIRTYPE, mode=0o1777), b"")])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree_of(path: Path) -> dict[str, tuple[str, int, bytes]]:
    """path -> (kind, mode, content or link) of a squashfs."""
    with path.open("rb") as file:
        squashed = SquashFs(file, path.stat().st_size)
        return {
            name: (
                node.kind.value,
                node.mode,
                b"".join(squashed.read(node)) if node.kind is EntryKind.FILE else node.link.encode(),
            )
            for name, node in squashed.walk()
        }


def layer_of(path: Path, tmp_path: Path) -> dict[str, tarfile.TarInfo]:
    """The one layer of a docker-archive."""
    with tarfile.open(path) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type] # it is a file
        (layer,) = manifest[0]["Layers"]
        (tmp_path / "layer.tar").write_bytes(archive.extractfile(layer).read())  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "layer.tar") as members:
        return {member.name: member for member in members}


@pytest.mark.parametrize("make", [docker_archive, oci_archive])
async def test_layers_become_one_squashfs_as_a_container_would_see_them(
    tmp_path: Path, make: Callable[..., bytes]
) -> None:
    image = write(tmp_path / "image", make([BASE, TOP]))
    config = await convert_image(image, tmp_path / "out", "squashfs", name="x:y")
    assert config.workdir == "/work"
    found = tree_of(tmp_path / "out")
    assert found == {
        "bin": ("dir", 0o755, b""),
        "bin/tool": ("file", 0o4755, b"tool" * 1000),
        "bin/same": ("file", 0o4755, b"tool" * 1000),
        "bin/sh": ("symlink", 0o777, b"tool"),
        "etc": ("dir", 0o755, b""),
        "etc/old": ("file", 0o644, b"new"),
        "tmp": ("dir", 0o1777, b""),
    }
    assert names(tmp_path) == ["image", "out"]  # no scratch is left


@pytest.mark.parametrize("packed", [True, False])
async def test_an_oci_image_is_rewrapped_under_our_tag_alone(tmp_path: Path, packed: bool) -> None:
    image = write(tmp_path / "image", oci_archive([BASE, TOP], packed=packed))
    await convert_image(image, tmp_path / "one", "docker-archive", name="ours:1")
    await convert_image(image, tmp_path / "two", "docker-archive", name="ours:1")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert entry["RepoTags"] == ["ours:1"]
        for name, layer in zip(entry["Layers"], (BASE, TOP), strict=True):
            assert archive.extractfile(name).read() == layer  # type: ignore[union-attr]
        config = archive.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
        assert entry["Config"] == f"{sha256(config)}.json"


async def test_the_tags_of_a_foreign_docker_archive_do_not_come_along(tmp_path: Path) -> None:
    image = write(tmp_path / "image", docker_archive([BASE]))
    await convert_image(image, tmp_path / "out", "docker-archive", name="ours:1")
    assert b"evil" not in (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("compressor", ["gzip", "lzo", "xz", "zstd"])
async def test_a_gvmi_becomes_one_layer_with_owners_modes_and_links(tmp_path: Path, compressor: str) -> None:
    tree = small_tree(tmp_path / "tree")
    image = write(tmp_path / "image", gvmi(squashfs(tree, tmp_path / "s", compressor).read_bytes()))
    config = await convert_image(image, tmp_path / "out", "docker-archive", name="ours:1")
    assert config.cmd == ("/bin/sh",)
    found = layer_of(tmp_path / "out", tmp_path)
    expected = {path.relative_to(tree).as_posix() for path in tree.rglob("*")} - {"deep/pipe"}
    assert set(found) - {"."} == expected
    assert found["tmp"].mode == 0o1777
    assert found["bin/sh"].linkname == "tool"
    links = [found["bin/tool"], found["deep/tool"]]
    assert sorted(member.islnk() for member in links) == [False, True]
    with tarfile.open(tmp_path / "layer.tar") as members:
        content = members.extractfile("deep/tool")
        assert content is not None
        assert content.read() == (tree / "bin/tool").read_bytes()


async def test_a_gvmi_is_a_machines_disk_as_it_is(tmp_path: Path) -> None:
    squashed = squashfs(small_tree(tmp_path / "tree"), tmp_path / "s", "gzip").read_bytes()
    image = write(tmp_path / "image", gvmi(squashed))
    await convert_image(image, tmp_path / "out", "squashfs", name="x:y")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "s")
    assert (tmp_path / "out").stat().st_size % 512 == 0


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


async def test_a_corrupt_squashfs_is_refused_in_words(tmp_path: Path) -> None:
    whole = squashfs(small_tree(tmp_path / "tree"), tmp_path / "s", "gzip").read_bytes()
    inodes_at = SUPERBLOCK.unpack(whole[:96])[15]
    for number, data in enumerate((flipped(whole, inodes_at + 10), whole[: len(whole) // 2], whole[:100])):
        image = write(tmp_path / f"bad-{number}", data)
        with pytest.raises(ImageError, match=r"damaged|cut off"):
            await convert_image(image, tmp_path / "out", "docker-archive", name="x:y")
    for at in range(len(whole) - 3000, len(whole) - 200, 400):  # in the tables, which are read for a machine too
        image = write(tmp_path / "bad", flipped(whole, at))
        try:
            await convert_image(image, tmp_path / "out", "squashfs", name="x:y")
        except ImageError as exc:
            assert "squashfs" in str(exc)


async def test_layers_that_do_not_fit_their_hashes_are_refused(tmp_path: Path) -> None:
    with_other = docker_archive([BASE]).replace(b"tooltool", b"toolTOOL")
    with pytest.raises(ImageError, match="the image says sha256:"):
        await convert_image(write(tmp_path / "a", with_other), tmp_path / "out", "squashfs", name="x:y")
    files = oci_blobs([BASE], packed=False)
    name = f"blobs/sha256/{sha256(BASE)}"
    files[name] = BASE.replace(b"tooltool", b"toolTOOL")
    with pytest.raises(ImageError, match="the manifest says sha256:"):
        await convert_image(write(tmp_path / "b", tar([*files.items()])), tmp_path / "out", "squashfs", name="x:y")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "evil",
    [
        tar([("../../escaped", b"x")]),
        tar([(info("a", tarfile.LNKTYPE, link="../../../etc/passwd"), b"")]),
        tar([(info("l", tarfile.SYMTYPE, link="l"), b""), ("l/x", b"")]),
    ],
)
async def test_layers_that_lead_out_are_refused(tmp_path: Path, evil: bytes) -> None:
    image = write(tmp_path / "image", oci_archive([evil]))
    with pytest.raises(ImageError):
        await convert_image(image, tmp_path / "out", "squashfs", name="x:y")


async def test_an_unpacking_bomb_ends_at_its_limit(tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(1_200_000_000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "zeros").rename(tmp_path / "tree/zeros")
    image = squashfs(tmp_path / "tree", tmp_path / "s", "gzip")
    assert image.stat().st_size < 100_000
    with pytest.raises(ImageError, match="too large unpacked"):
        await convert_image(image, tmp_path / "out", "docker-archive", name="x:y")
    assert names(tmp_path) == ["s", "tree"]


async def test_a_worker_out_of_time_or_memory_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write(tmp_path / "image", oci_archive([BASE]))
    monkeypatch.setattr(limits, "IMAGE_CONVERT_WALL_S", 0.01)
    with pytest.raises(ImageError, match=r"longer than 0\.01 s"):
        await convert_image(image, tmp_path / "out", "squashfs", name="x:y")
    monkeypatch.undo()
    monkeypatch.setattr(limits, "IMAGE_CONVERT_MEMORY_BYTES", 1_000_000)
    with pytest.raises(ImageError):
        await convert_image(image, tmp_path / "out", "squashfs", name="x:y")
    assert names(tmp_path) == ["image"]


async def test_without_squashfs_tools_the_error_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    image = write(tmp_path / "image", oci_archive([BASE]))
    with pytest.raises(ImageError, match="apt install squashfs-tools"):
        await convert_image(image, tmp_path / "out", "squashfs", name="x:y")


def workers() -> list[str]:
    found = subprocess.run(["pgrep", "-f", "golemp2p.images.worker"], capture_output=True, text=True, check=False)
    alive = []
    for pid in found.stdout.split():
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(status[1]) == os.getpid() and status[0] != "Z":
            alive.append(pid)
    return alive


async def test_cancelling_ends_the_worker_and_leaves_nothing(tmp_path: Path) -> None:
    image = write(tmp_path / "image", oci_archive([BASE]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: convert_image(image, tmp_path / "out", "squashfs", name="x:y"))
        with trio.fail_after(10):
            while not workers():  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not workers()
    assert names(tmp_path) == ["image"]


# --- the cache --------------------------------------------------------------------------------------------------------
async def test_an_image_is_converted_once_for_all_who_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import golemp2p.images.cache as cache_module

    data = oci_archive([BASE, TOP])
    image = write(tmp_path / "image", data)
    made: list[str] = []
    real = convert_image

    async def counted(*args: object, **more: object) -> object:
        made.append(str(args[2]))
        return await real(*args, **more)  # type: ignore[arg-type] # handed on as it came

    monkeypatch.setattr(cache_module, "convert_image", counted)
    caches = [ImageCache(tmp_path / "cache"), ImageCache(tmp_path / "cache")]  # two nodes of one user
    found = []

    async def get(cache: ImageCache) -> None:
        found.append(await cache.get(image, sha256(data), "docker-archive"))

    async with trio.open_nursery() as nursery:
        for cache in caches * 2:
            nursery.start_soon(get, cache)
    assert made == ["docker-archive"]
    assert len(set(found)) == 1
    path, config = found[0]
    assert dict(config.env)["PATH"] == "/bin"
    with tarfile.open(path) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert manifest[0]["RepoTags"] == [image_tag(sha256(data))]
    assert await ImageCache(tmp_path / "cache").get(image, sha256(data), "docker-archive") == found[0]
    assert made == ["docker-archive"]


async def test_what_was_not_used_for_long_makes_room(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache", max_bytes=150_000)
    paths = []
    for number in range(3):
        data = oci_archive([tar([("f", os.urandom(100_000))])])
        image = write(tmp_path / f"image-{number}", data)
        path, _ = await cache.get(image, sha256(data), "docker-archive")
        paths.append(path)
        long_ago = path.stat().st_mtime - 2 * limits.IMAGE_CACHE_KEEP_S + number
        if number < 2:
            os.utime(path, (long_ago, long_ago))
    assert [path.exists() for path in paths] == [False, False, True]


async def test_a_failed_conversion_is_not_kept(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError, match="starts with"):
            await cache.get(write(tmp_path / "image", b"no image"), sha256(b"no image"), "squashfs")
    assert [Path(name).suffix for name in names(tmp_path / "cache")] == [".lock"]
