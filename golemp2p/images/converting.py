"""From any kind of image to what an engine loads. Blocking, for the worker process; reads and writes hostile data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from golemp2p import limits
from golemp2p.images.archive import Archive, LayerRef
from golemp2p.images.inspecting import Squashed, open_image
from golemp2p.images.model import VOLUMES_LABEL, ImageConfig, ImageError, config_section
from golemp2p.images.plain import HashingSlice, decoder, inflate, unpacked_limit
from golemp2p.images.rootfs import RootFs
from golemp2p.images.squashfs import SquashFs
from golemp2p.images.tarstream import (
    END,
    EntryKind,
    TarEntry,
    copy_bytes,
    padding,
    path_parts,
    read_tar,
    write_file,
    write_header,
)

_SECTOR: Final = 4_096
_MKSQUASHFS: Final = (
    *("-tar", "-comp", "zstd", "-Xcompression-level", "3", "-mkfs-time", "0", "-no-xattrs"),
    *("-processors", "2", "-mem", "256M", "-no-progress", "-quiet"),
)
"""Level 3 takes 10 s per GB, the default of 15 ten times that. sqfstar 4.5 would do, but takes no level (a bug)."""


@dataclass(frozen=True)
class PlainLayer:
    """A layer's tar, uncompressed: where it lies and its sha256."""

    file: IO[bytes]
    offset: int
    size_bytes: int
    sha256: str


def convert(path: Path, target: Path, to: str, *, name: str, scratch: Path) -> ImageConfig:
    """Write ``target``, a new file. ``scratch`` is a private directory on a disk with room. Raises ImageError."""
    max_bytes = unpacked_limit(path.stat().st_size)
    with open_image(path, directory=scratch) as (file, image), ExitStack() as files:
        if to == "docker-archive":
            with target.open("wb") as out:
                _to_docker(file, image, out, name, scratch, max_bytes, files)
        elif to == "squashfs":
            _to_squashfs(file, image, target, scratch, max_bytes, files)
        else:
            raise ImageError(f"there is no way to make a {to!r} of an image")
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return image.config


# --- to what `docker load` takes (20.10 knows no OCI) -----------------------------------------------------------------
def _to_docker(
    file: IO[bytes],
    image: Archive | Squashed,
    out: IO[bytes],
    name: str,
    scratch: Path,
    max_bytes: int,
    files: ExitStack,
) -> None:
    if isinstance(image, Archive):
        layers = list(plain_layers(file, image, scratch, max_bytes, files))
        config_bytes = image.config_bytes
        if image.config.volumes:
            whole = json.loads(config_bytes)
            whole["config"] = _with_volumes_as_label(whole["config"], image.config)
            config_bytes = json.dumps(whole).encode()
    else:
        layer = files.enter_context((scratch / "layer.tar").open("w+b"))
        sha256 = _layer_of_squashfs(image.squashfs, layer, max_bytes)
        layers = [PlainLayer(layer, 0, layer.tell(), sha256)]
        config_bytes = json.dumps(
            {
                "architecture": image.config.architecture,
                "os": image.config.os,
                "created": "1970-01-01T00:00:00Z",
                "config": _with_volumes_as_label(config_section(image.config), image.config),
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256}"]},
            },
            sort_keys=True,
        ).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    write_file(out, config_name, config_bytes)
    names: list[str] = []
    for layer_ in layers:
        layer_name = f"{layer_.sha256}.tar"
        if layer_name not in names:
            write_header(out, TarEntry(layer_name, EntryKind.FILE, size_bytes=layer_.size_bytes))
            copy_bytes(layer_.file, layer_.offset, layer_.size_bytes, out)
            out.write(padding(layer_.size_bytes))
        names.append(layer_name)
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": names}]
    write_file(out, "manifest.json", json.dumps(manifest).encode())
    out.write(END)


def _with_volumes_as_label(section: dict[str, Any], config: ImageConfig) -> dict[str, Any]:
    """Without ``Volumes``: for those an engine would make directories of its own and copy the image's files there."""
    if config.volumes:
        del section["Volumes"]
        labels = section.get("Labels")
        section["Labels"] = {
            **(labels if isinstance(labels, dict) else {}),
            VOLUMES_LABEL: json.dumps(config.volumes),
        }
    return section


def plain_layers(
    file: IO[bytes], image: Archive, scratch: Path, max_bytes: int, files: ExitStack
) -> Iterator[PlainLayer]:
    """The layers unpacked and checked against both their digests. What is plain already stays where it is.

    ``max_bytes`` bounds all of them together; ``files`` closes what is opened. Raises ImageError.
    """
    left_bytes = max_bytes
    for number, layer in enumerate(image.layers):
        plain = _plain_layer(file, layer, scratch / f"layer-{number}", left_bytes, files)
        if f"sha256:{plain.sha256}" != layer.diff_id:
            raise ImageError(f"layer {number + 1} has sha256 {plain.sha256}, the image says {layer.diff_id}")
        left_bytes -= plain.size_bytes
        for count, entry in enumerate(read_tar(plain.file, plain.offset, plain.size_bytes), 1):
            path_parts(entry.name)
            if count > limits.MAX_IMAGE_FILES:
                raise ImageError("a layer holds too many files", hint=f"at most {limits.MAX_IMAGE_FILES}")
        yield plain


def _plain_layer(file: IO[bytes], layer: LayerRef, scratch: Path, max_bytes: int, files: ExitStack) -> PlainLayer:
    file.seek(layer.offset)
    head = file.read(8)
    stored = HashingSlice(file, layer.offset, layer.size_bytes)
    compressed = decoder(stored, head)  # type: ignore[arg-type] # it only reads
    if compressed is None:
        if layer.size_bytes > max_bytes:
            raise ImageError(
                "the image's layers are too large together", hint=f"at most {limits.MAX_IMAGE_BYTES} bytes"
            )
        plain_file, size = file, layer.size_bytes
        while stored.read(1024 * 1024):
            pass
        sha256 = stored.sha256.hexdigest()
    else:
        plain_file = files.enter_context(scratch.open("w+b"))
        size, sha256 = inflate(compressed, plain_file, max_bytes=max_bytes)
        while stored.read(1024 * 1024):  # what may follow the compressed data belongs to the blob
            pass
    if layer.digest and f"sha256:{stored.sha256.hexdigest()}" != layer.digest:
        raise ImageError(f"a layer has sha256 {stored.sha256.hexdigest()}, the manifest says {layer.digest}")
    return PlainLayer(plain_file, layer.offset if compressed is None else 0, size, sha256)


class _Hashing:
    """A file to write to that hashes what it gets."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self.sha256 = out, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._out.write(data)


def _layer_of_squashfs(squashfs: SquashFs, layer: IO[bytes], max_bytes: int) -> str:
    """One layer with owners, modes, links and times, without devices; its sha256."""
    hashing = _Hashing(layer)
    out: IO[bytes] = hashing  # type: ignore[assignment] # only written to
    first_names: dict[int, str] = {}
    total = 0
    root = squashfs.root()
    write_header(out, TarEntry("./", EntryKind.DIR, root.mode, root.uid, root.gid, 0, root.mtime_s))
    for path, node in squashfs.walk():
        if node.kind is EntryKind.SPECIAL:
            continue
        path_parts(path)
        kind, link, size = node.kind, node.link, node.size_bytes
        if node.kind is EntryKind.FILE and node.links > 1:
            if node.number in first_names:
                kind, link, size = EntryKind.HARDLINK, first_names[node.number], 0
            else:
                first_names[node.number] = path
        if kind is EntryKind.FILE:
            total += size
            if total > max_bytes:
                raise ImageError("the squashfs is too large unpacked", hint=f"at most {max_bytes} bytes")
        else:
            size = 0
        name = f"{path}/" if kind is EntryKind.DIR else path
        write_header(out, TarEntry(name, kind, node.mode, node.uid, node.gid, size, node.mtime_s, link))
        if kind is EntryKind.FILE:
            for block in squashfs.read(node):
                out.write(block)
            out.write(padding(size))
    out.write(END)
    return hashing.sha256.hexdigest()


# --- to a squashfs for a virtual machine ------------------------------------------------------------------------------
def _to_squashfs(
    file: IO[bytes], image: Archive | Squashed, target: Path, scratch: Path, max_bytes: int, files: ExitStack
) -> None:
    if isinstance(image, Squashed):
        for path, _ in image.squashfs.walk():  # every table is read once: damage shows here, not in the machine
            path_parts(path)
        size = image.squashfs.used_bytes
        with target.open("wb") as out:
            copy_bytes(file, 0, size, out)
            out.write(bytes(-size % _SECTOR))
        return
    rootfs = RootFs()
    layers = list(plain_layers(file, image, scratch, max_bytes, files))
    for number, layer in enumerate(layers):
        rootfs.add_layer(read_tar(layer.file, layer.offset, layer.size_bytes), number)
    squash(rootfs, [layer.file for layer in layers], target)


def squash(rootfs: RootFs, sources: list[IO[bytes]], target: Path) -> None:
    """Run squashfs-tools over the tree."""
    program = shutil.which("mksquashfs")
    if program is None:
        raise ImageError(
            "mksquashfs is not installed; images in layers cannot be made a virtual machine's disk without it",
            hint="install squashfs-tools 4.5 or newer (apt install squashfs-tools)",
        )
    root = rootfs.root.entry
    owner = ["-root-mode", f"{root.mode:o}", "-root-uid", str(root.uid), "-root-gid", str(root.gid)]
    target.unlink(missing_ok=True)
    process = subprocess.Popen(
        [program, "-", str(target), *_MKSQUASHFS, *owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    broken = False
    try:
        write_tree(rootfs, sources, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        broken = True
    finally:
        if process.poll() is None and not process.stdin.closed:
            process.kill()
    # It says at most a few lines: they wait in the pipe until here.
    said = process.stderr.read(4_096).decode("utf-8", "replace").strip()
    process.stderr.close()
    if process.wait() or broken:
        code = process.returncode
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        raise ImageError(f"mksquashfs failed ({how}): {said[:500] or 'it said nothing'}")


def write_tree(rootfs: RootFs, sources: list[IO[bytes]], out: IO[bytes]) -> None:
    """The tree as one tar; special files are left out, the files of one hard link come together."""
    first_names: dict[int, str] = {}
    for path, item in rootfs.walk():
        entry = item.entry
        if not path or entry.kind is EntryKind.SPECIAL:
            continue  # mksquashfs takes the root's facts as arguments
        if entry.kind is EntryKind.FILE and id(item) in first_names:
            link = first_names[id(item)]
            write_header(out, dataclasses.replace(entry, name=path, kind=EntryKind.HARDLINK, size_bytes=0, link=link))
            continue
        name = f"{path}/" if entry.kind is EntryKind.DIR else path
        write_header(out, dataclasses.replace(entry, name=name))
        if entry.kind is EntryKind.FILE:
            first_names[id(item)] = path
            copy_bytes(sources[item.source], entry.offset, entry.size_bytes, out)
            out.write(padding(entry.size_bytes))
    out.write(END)
