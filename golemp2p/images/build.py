"""Building images for ``golemp2p image build``: everything becomes an OCI archive, but gvmi files, which stay.

What is built twice from the same files is the same to the byte: entries sorted, times 0, owners 0:0.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from golemp2p import limits
from golemp2p.images.archive import Archive
from golemp2p.images.converting import plain_layers
from golemp2p.images.engine import save_image
from golemp2p.images.inspecting import Squashed, inspect_image, open_image
from golemp2p.images.model import ARCHITECTURES, ImageConfig, ImageError, ImageInfo, config_section
from golemp2p.images.rootdir import write_directory
from golemp2p.images.tarstream import END, EntryKind, TarEntry, copy_bytes, padding, write_file, write_header

Warn = Callable[[str], None]
_GZIP_LEVEL: Final = 6
_CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class BuildOptions:
    """What the configuration is to say; ``None`` leaves what the source says. ``env`` is added to it."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None

    def applied(self, config: ImageConfig) -> ImageConfig:
        names = {name for name, _ in self.env}
        changed: dict[str, Any] = {"env": tuple(pair for pair in config.env if pair[0] not in names) + self.env}
        for name in ("entrypoint", "cmd", "workdir", "user"):
            if (value := getattr(self, name)) is not None:
                changed[name] = value
        return dataclasses.replace(config, **changed)


@dataclass(frozen=True)
class _Blob:
    path: Path
    sha256: str
    size_bytes: int


def build_image(
    source: str, target: Path, options: BuildOptions | None = None, *, warn: Warn | None = None
) -> ImageInfo:
    """Make the image ``target`` of a directory (a root file system or an OCI layout), a file (OCI or docker archive,
    gvmi, squashfs) or else an image of the Docker engine by that name. Blocking. Raises ImageError, NetworkError (no
    engine).

    ``warn`` is told what was left out.
    """
    options = options or BuildOptions()
    warn = warn or (lambda _: None)
    path = Path(source)
    # Beside the target: what is as large as an image does not belong into a small /tmp.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as name:
        scratch = Path(name)
        part = scratch / "image"
        if path.is_dir():
            if (path / "oci-layout").exists():
                _tar_layout(path, scratch / "layout.tar")
                _build_from_file(scratch / "layout.tar", part, options, scratch)
            else:
                _build_from_rootfs(path, part, options, scratch, warn)
        elif path.exists():
            _build_from_file(path, part, options, scratch)
        else:
            save_image(source, scratch / "saved.tar")
            _build_from_file(scratch / "saved.tar", part, options, scratch)
        info = inspect_image(part)  # what we write must be what we read
        part.replace(target)
    return info


def _build_from_rootfs(root: Path, target: Path, options: BuildOptions, scratch: Path, warn: Warn) -> None:
    if (root / "Dockerfile").exists() and not (root / "bin").exists() and not (root / "usr").exists():
        raise ImageError(
            f"{root} holds a Dockerfile, not a root file system",
            hint="docker build -t NAME . && golemp2p image build NAME",
        )
    plain = scratch / "layer.tar"
    with plain.open("wb") as out:
        files = write_directory(root, out, warn)
    if not files:
        raise ImageError(f"{root} is empty", hint="it should hold a root file system: bin, etc, ...")
    blob, diff_id = _compress(plain, scratch / "layer")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    config = options.applied(ImageConfig(env=(("PATH", path),), architecture=architecture))
    image = {
        "architecture": config.architecture,
        "os": config.os,
        "created": "1970-01-01T00:00:00Z",
        "config": config_section(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }
    _write_oci(target, _json(image), [blob])


def _build_from_file(source: Path, target: Path, options: BuildOptions, scratch: Path) -> None:
    with open_image(source, directory=scratch) as (file, image), ExitStack() as files:
        if isinstance(image, Squashed):
            if options != BuildOptions():
                raise ImageError("a gvmi or squashfs is taken as it is", hint="leave --entrypoint and the like out")
            shutil.copyfile(source, target)
            return
        blobs = []
        for number, layer in enumerate(plain_layers(file, image, scratch, limits.MAX_IMAGE_BYTES, files)):
            plain = scratch / f"plain-{number}"
            with plain.open("wb") as out:
                copy_bytes(layer.file, layer.offset, layer.size_bytes, out)
            blob, _ = _compress(plain, scratch / f"packed-{number}")
            plain.unlink()
            blobs.append(blob)
        _write_oci(target, _configured(image, options), blobs)


def _configured(image: Archive, options: BuildOptions) -> bytes:
    """The configuration's bytes, unchanged when nothing is to be changed: its hash is the image's id."""
    if options == BuildOptions():
        return image.config_bytes
    fields = json.loads(image.config_bytes)
    fields["config"] = {**(fields.get("config") or {}), **config_section(options.applied(image.config))}
    return _json(fields)


def _compress(plain: Path, target: Path) -> tuple[_Blob, str]:
    """The gzip of a layer as a blob, and the sha256 of the layer itself."""
    diff_id = hashlib.sha256()
    with (
        plain.open("rb") as source,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as out,
    ):
        while block := source.read(limits.MIB):
            diff_id.update(block)
            out.write(block)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Blob(target, digest, target.stat().st_size), diff_id.hexdigest()


def _write_oci(target: Path, config: bytes, layers: list[_Blob]) -> None:
    config_sha256 = hashlib.sha256(config).hexdigest()
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": {"mediaType": _CONFIG_TYPE, "digest": f"sha256:{config_sha256}", "size": len(config)},
            "layers": [
                {"mediaType": _LAYER_TYPE, "digest": f"sha256:{layer.sha256}", "size": layer.size_bytes}
                for layer in layers
            ],
        }
    )
    manifest_sha256 = hashlib.sha256(manifest).hexdigest()
    described = {"mediaType": _MANIFEST_TYPE, "digest": f"sha256:{manifest_sha256}", "size": len(manifest)}
    with target.open("wb") as out:
        write_file(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        write_file(out, "index.json", _json({"schemaVersion": 2, "manifests": [described]}))
        write_file(out, f"blobs/sha256/{config_sha256}", config)
        write_file(out, f"blobs/sha256/{manifest_sha256}", manifest)
        for layer in {layer.sha256: layer for layer in layers}.values():
            write_header(out, TarEntry(f"blobs/sha256/{layer.sha256}", EntryKind.FILE, size_bytes=layer.size_bytes))
            with layer.path.open("rb") as file:
                copy_bytes(file, 0, layer.size_bytes, out)
            out.write(padding(layer.size_bytes))
        out.write(END)


def _tar_layout(directory: Path, target: Path) -> None:
    """An OCI layout's files as a tar; links are not followed."""
    with target.open("wb") as out:
        for path in _layout_files(directory):
            with _regular(path) as (file, size):
                write_header(out, TarEntry(path.relative_to(directory).as_posix(), EntryKind.FILE, size_bytes=size))
                copy_bytes(file, 0, size, out)
                out.write(padding(size))
        out.write(END)


def _layout_files(directory: Path) -> Iterator[Path]:
    for name in ("oci-layout", "index.json"):
        if not (directory / name).is_file():
            raise ImageError(f"{directory} is no OCI layout: it lacks {name}")
        yield directory / name
    blobs = directory / "blobs" / "sha256"
    if blobs.is_dir():
        yield from sorted(path for path in blobs.iterdir() if path.is_file() and not path.is_symlink())


@contextmanager
def _regular(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    with path.open("rb") as file:
        yield file, path.stat().st_size


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
