"""Images in tar files: OCI image layouts and what ``docker save`` writes.

OCI blobs are found by digest and checked against it. A docker-archive has no digests of its layers but the
configuration's ``rootfs.diff_ids``, which are checked when the layers are unpacked. The newer ``docker save`` writes
both; then the OCI side is used.
"""

from __future__ import annotations

import hashlib
import json
import platform
import posixpath
import re
from dataclasses import dataclass
from typing import IO, Any, Final

from golemp2p import limits
from golemp2p.images.model import ARCHITECTURES, ImageConfig, ImageError, ImageKind, Layer, parse_config
from golemp2p.images.tarstream import EntryKind, TarEntry, path_parts, read_tar

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MAX_NESTED: Final = 4  # indexes within indexes
_MAX_LINKS: Final = 8


@dataclass(frozen=True)
class LayerRef:
    """Where a layer lies in the archive. ``digest`` is empty in a docker-archive; ``diff_id`` is of it unpacked."""

    digest: str
    diff_id: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Archive:
    """An image in a plain tar file."""

    kind: ImageKind
    config: ImageConfig
    config_bytes: bytes
    layers: tuple[LayerRef, ...]

    def layer_list(self) -> tuple[Layer, ...]:
        return tuple(Layer(layer.digest or layer.diff_id, layer.size_bytes) for layer in self.layers)


def open_archive(file: IO[bytes]) -> Archive:
    """Raises ImageError when ``file`` is a tar but no image, or a damaged one."""
    index = _Index(file)
    if "oci-layout" in index.entries and "index.json" in index.entries:
        return _open_oci(index)
    if "manifest.json" in index.entries:
        return _open_docker(index)
    first = ", ".join(sorted(index.entries)[:4]) or "nothing"
    raise ImageError(
        f"the tar holds no image: neither oci-layout nor manifest.json is at its top, but {first}",
        hint="make one with: golemp2p image build DIR",
    )


class _Index:
    """What lies where in the outer tar."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.entries: dict[str, TarEntry] = {}
        size = file.seek(0, 2)
        for entry in read_tar(file, 0, size):
            if len(self.entries) >= limits.MAX_IMAGE_FILES:
                raise ImageError("too many files in the image's tar")
            self.entries["/".join(path_parts(entry.name))] = entry

    def find(self, name: str) -> TarEntry:
        """The regular file of that name; older ``docker save`` links layers that occur twice."""
        for _ in range(_MAX_LINKS):
            entry = self.entries.get(name)
            if entry is None:
                raise ImageError(f"the image's tar lacks {name[:200]!r}, which its manifest names")
            if entry.kind is EntryKind.FILE:
                return entry
            if entry.kind is EntryKind.SYMLINK:
                name = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.link))
            elif entry.kind is EntryKind.HARDLINK:
                name = posixpath.normpath(entry.link)
            else:
                break
        raise ImageError(f"{name[:200]!r} in the image's tar is not a file")

    def read(self, name: str, *, sha256: str | None = None) -> bytes:
        entry = self.find(name)
        if entry.size_bytes > limits.MAX_IMAGE_JSON_BYTES:
            raise ImageError(
                f"{name[:200]!r} has {entry.size_bytes} bytes", hint=f"at most {limits.MAX_IMAGE_JSON_BYTES}"
            )
        self._file.seek(entry.offset)
        data = self._file.read(entry.size_bytes)
        if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise ImageError(f"{name[:200]!r} in the image has sha256 {found}, its manifest says {sha256}")
        return data

    def blob(self, descriptor: object) -> tuple[str, TarEntry]:
        """The digest and the place of what an OCI descriptor names."""
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if match is None:
            raise ImageError(f"the image names a blob by {str(digest)[:100]!r}", hint="sha256:<64 hex digits>")
        return match[0], self.find(f"blobs/sha256/{match[1]}")

    def read_blob(self, descriptor: object) -> bytes:
        digest, _ = self.blob(descriptor)
        hexdigest = digest.removeprefix("sha256:")
        return self.read(f"blobs/sha256/{hexdigest}", sha256=hexdigest)


def _parse(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ImageError(f"{what} of the image is not JSON") from exc


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = _parse(data, what)
    if not isinstance(value, dict):
        raise ImageError(f"{what} of the image is not a JSON object")
    return value


def _items(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ImageError(f"{what} of the image is not a list of at most {most}")
    return value


def _open_oci(index: _Index) -> Archive:
    manifest = _oci_manifest(index, _object(index.read("index.json"), "index.json"), _MAX_NESTED)
    config_bytes = index.read_blob(manifest.get("config"))
    config, diff_ids = _parse_image(config_bytes)
    descriptors = _items(manifest.get("layers"), "the manifest's layers", limits.MAX_IMAGE_LAYERS)
    if len(descriptors) != len(diff_ids):
        raise ImageError(f"the manifest has {len(descriptors)} layers, the configuration {len(diff_ids)}")
    layers = []
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        digest, entry = index.blob(descriptor)
        layers.append(LayerRef(digest, diff_id, entry.offset, entry.size_bytes))
    return Archive(ImageKind.OCI_ARCHIVE, config, config_bytes, tuple(layers))


def _oci_manifest(index: _Index, listing: dict[str, Any], depth: int) -> dict[str, Any]:
    """The manifest for this machine, else the only one there is."""
    candidates = []
    for descriptor in _items(listing.get("manifests"), "the index's manifests", 256):
        place = descriptor.get("platform") if isinstance(descriptor, dict) else None
        place = place if isinstance(place, dict) else {}
        if place.get("os") != "unknown":  # attestations
            candidates.append((descriptor, place))
    ours = ARCHITECTURES.get(platform.machine())
    fitting = [item for item, place in candidates if place.get("os") == "linux" and place.get("architecture") == ours]
    if not fitting and len(candidates) == 1:
        fitting = [candidates[0][0]]
    if not fitting:
        raise ImageError(f"none of the image's {len(candidates)} manifests is for linux/{ours}")
    found = _object(index.read_blob(fitting[0]), "a manifest")
    if found.get("mediaType") in _INDEXES or "manifests" in found:
        if not depth:
            raise ImageError("the image's indexes are nested too deeply")
        return _oci_manifest(index, found, depth - 1)
    return found


def _open_docker(index: _Index) -> Archive:
    images = _items(_parse(index.read("manifest.json"), "manifest.json"), "manifest.json", 256)
    if len(images) != 1 or not isinstance(images[0], dict):
        raise ImageError(f"the docker-archive holds {len(images)} images", hint="save one image at a time")
    names = _items(images[0].get("Layers") or [], "the manifest's layers", limits.MAX_IMAGE_LAYERS)
    config_name = images[0].get("Config")
    if not isinstance(config_name, str) or not all(isinstance(name, str) for name in names):
        raise ImageError("manifest.json does not name the image's files")
    config_bytes = index.read(posixpath.normpath(config_name))
    config, diff_ids = _parse_image(config_bytes)
    if len(names) != len(diff_ids):
        raise ImageError(f"manifest.json has {len(names)} layers, the configuration {len(diff_ids)}")
    layers = []
    for name, diff_id in zip(names, diff_ids, strict=True):
        entry = index.find(posixpath.normpath(name))
        layers.append(LayerRef("", diff_id, entry.offset, entry.size_bytes))
    return Archive(ImageKind.DOCKER_ARCHIVE, config, config_bytes, tuple(layers))


def _parse_image(data: bytes) -> tuple[ImageConfig, list[str]]:
    image = _object(data, "the configuration")
    config = parse_config(image.get("config"), architecture=image.get("architecture"), os=image.get("os"))
    if config.os != "linux":
        raise ImageError(f"the image is for {config.os[:40]!r}, not for linux")
    rootfs = image.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    found = _items(diff_ids or [], "the configuration's diff_ids", limits.MAX_IMAGE_LAYERS)
    if not all(isinstance(item, str) and _DIGEST.fullmatch(item) for item in found):
        raise ImageError("the configuration's diff_ids are not sha256 digests")
    return config, found
