"""What an image is: its kind, its configuration, its layers; and the one error of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from golemp2p.errors import GolemError

_MAX_ITEMS: Final = 1_024  # of one list in a configuration; real ones have about 10
_MAX_TEXT_CHARS: Final = 32 * 1_024  # of one string
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "riscv64": "riscv64"}
"""``platform.machine()`` in the words of image configurations."""


VOLUMES_LABEL: Final = "golemp2p.volumes"
"""Where an image in an engine says in JSON what its ``Volumes`` were: the engine is not to make them."""


class ImageError(GolemError):
    """A file is no image, or a damaged, hostile or unsupported one. The message is shown to the requestor."""

    code = "image"


class ImageKind(StrEnum):
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    GVMI = "gvmi"
    SQUASHFS = "squashfs"


@dataclass(frozen=True)
class ImageConfig:
    """How a payload of this image is meant to be started. Empty means that the image does not say."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()
    architecture: str = "amd64"
    os: str = "linux"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ImageConfig:
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple(fields["entrypoint"]),
            tuple(fields["cmd"]),
            tuple((name, value) for name, value in fields["env"]),
            fields["workdir"],
            fields["user"],
            tuple(fields["volumes"]),
            fields["architecture"],
            fields["os"],
        )


@dataclass(frozen=True)
class Layer:
    """``digest`` is ``sha256:<hex>`` of the layer as stored, or empty where the image has none (squashfs)."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class ImageInfo:
    kind: ImageKind
    config: ImageConfig
    layers: tuple[Layer, ...]
    size_bytes: int  # of the file


def parse_config(section: object, *, architecture: object = None, os: object = None) -> ImageConfig:
    """The ``config`` object of an OCI or Docker image, or a gvmi's container configuration. Raises ImageError."""
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise ImageError("the image's configuration is not an object")
    env = []
    for item in _texts(section, "Env"):
        name, sign, value = item.partition("=")
        if not name:
            raise ImageError(f"the image's environment has {item[:80]!r}, which has no name")
        if sign:
            env.append((name, value))
    workdir = _text(section.get("WorkingDir"), "WorkingDir")
    return ImageConfig(
        entrypoint=_texts(section, "Entrypoint"),
        cmd=_texts(section, "Cmd"),
        env=tuple(env),
        workdir=workdir,
        user=_text(section.get("User"), "User"),
        volumes=tuple(sorted(_texts(section, "Volumes"))),
        architecture=_text(architecture, "architecture") or "amd64",
        os=_text(os, "os") or "linux",
    )


def config_section(config: ImageConfig) -> dict[str, Any]:
    """The inverse of :func:`parse_config`, in Docker's words."""
    section: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in config.env],
        "Entrypoint": list(config.entrypoint) or None,
        "Cmd": list(config.cmd) or None,
        "WorkingDir": config.workdir,
        "User": config.user,
    }
    if config.volumes:
        section["Volumes"] = {path: {} for path in config.volumes}
    return section


def labelled_volumes(labels: Mapping[str, Any]) -> list[str]:
    """What VOLUMES_LABEL says; nothing where it says no list."""
    try:
        found = json.loads(labels.get(VOLUMES_LABEL) or "[]")
    except (ValueError, TypeError, RecursionError):
        return []
    return [str(path) for path in found] if isinstance(found, list) else []


def _texts(section: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of strings; Docker writes sets (Volumes) as objects and old images single strings."""
    value = section.get(name)
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else None
    if items is None or len(items) > _MAX_ITEMS:
        raise ImageError(f"{name} in the image's configuration is not a list of at most {_MAX_ITEMS} strings")
    return tuple(_text(item, name) for item in items)


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_TEXT_CHARS or "\0" in value:
        raise ImageError(f"{name} in the image's configuration is not text, too long, or holds a zero byte")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ImageError(f"{name} in the image's configuration is not valid Unicode") from exc
    return value
