"""Images made by hand, right or wrong in one point."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

CONFIG = {"Env": ["PATH=/bin", "A=b=c"], "Cmd": ["/bin/sh"], "WorkingDir": "/work", "Volumes": {"/data": {}}}


def info(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644, uid: int = 0
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode, made.uid = kind, link, mode, uid
    return made


def tar(entries: Sequence[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for entry, data in entries:
            member = info(entry) if isinstance(entry, str) else entry
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image_config(layers: Sequence[bytes], config: object = CONFIG) -> bytes:
    diff_ids = [f"sha256:{sha256(layer)}" for layer in layers]
    facts = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(facts).encode()


def docker_archive(layers: Sequence[bytes], *, config: object = CONFIG, more: Mapping[str, Any] | None = None) -> bytes:
    """As `docker save` of old wrote it; ``layers`` are plain tars."""
    manifest = [
        {"Config": "c.json", "RepoTags": ["evil:latest"], "Layers": [f"{i}/layer.tar" for i in range(len(layers))]}
    ]
    manifest[0].update(more or {})
    files: list[tuple[str | tarfile.TarInfo, bytes]] = [("c.json", image_config(layers, config))]
    files += [(f"{i}/layer.tar", layer) for i, layer in enumerate(layers)]
    return tar([*files, ("manifest.json", json.dumps(manifest).encode())])


def oci_blobs(layers: Sequence[bytes], *, packed: bool = True, config: object = CONFIG) -> dict[str, bytes]:
    """The files of an OCI layout."""
    stored = [gzip.compress(layer, mtime=0) if packed else layer for layer in layers]
    config_bytes = image_config(layers, config)
    blobs = [config_bytes, *stored]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": f"sha256:{sha256(config_bytes)}", "size": len(config_bytes)},
            "layers": [{"digest": f"sha256:{sha256(blob)}", "size": len(blob)} for blob in stored],
        }
    ).encode()
    blobs.append(manifest)
    index = {"schemaVersion": 2, "manifests": [{"digest": f"sha256:{sha256(manifest)}", "size": len(manifest)}]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    return files | {f"blobs/sha256/{sha256(blob)}": blob for blob in blobs}


def oci_archive(layers: Sequence[bytes], *, packed: bool = True, config: object = CONFIG) -> bytes:
    return tar(list(oci_blobs(layers, packed=packed, config=config).items()))


def small_tree(directory: Path) -> Path:
    """Some of everything: text, a file of several blocks, holes, a hard link, links, a pipe, modes."""
    for name in ("bin", "etc", "deep/er/still", "tmp"):
        (directory / name).mkdir(parents=True)
    (directory / "etc/motd").write_text("hello\n")
    (directory / "bin/tool").write_bytes(hashlib.shake_128(b"tool").digest(300_000))
    (directory / "bin/tool").chmod(0o4755)
    (directory / "etc/zeros").write_bytes(bytes(400_000))
    (directory / "deep/er/still/empty").touch()
    os.link(directory / "bin/tool", directory / "deep/tool")
    (directory / "bin/sh").symlink_to("tool")
    (directory / "tmp").chmod(0o1777)
    os.mkfifo(directory / "deep/pipe")
    for number in range(300):  # inodes and listings of more than one metadata block
        (directory / "deep/er" / f"file-with-a-long-name-{number:04}").write_text(str(number))
    return directory


def squashfs(tree: Path, target: Path, compressor: str) -> Path:
    program = shutil.which("mksquashfs")
    if program is None:
        pytest.fail("mksquashfs is missing: apt-get install squashfs-tools")
    command = [
        program,
        str(tree),
        str(target),
        "-comp",
        compressor,
        "-quiet",
        "-no-progress",
        "-noappend",
        "-processors",
        "1",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def gvmi(squashed: bytes, config: object = CONFIG) -> bytes:
    data = json.dumps(config).encode()
    return squashed + zlib.crc32(data).to_bytes(4, "little") + data + f"{len(data):08}".encode()
