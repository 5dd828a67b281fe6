"""The images of one user by name, beside any node: ``golemp2p image ls`` and friends.

::

    files/<sha3-256>    the images, read-only
    index.json          {"images": {<sha3-256>: {names, kind, size_bytes, config, created_s}}}, replaced at once
    lock                held while the index is changed
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from golemp2p.errors import NotFoundError, UsageError
from golemp2p.images.inspecting import inspect_image
from golemp2p.images.model import ImageConfig, ImageError

_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_MAX_NAME_CHARS: Final = 200
_PREFIX: Final = re.compile(r"[0-9a-f]{8,64}")
_HASH_LINK: Final = re.compile(r"(?:hash:)?sha3(?:-256)?:([0-9a-fA-F]{8,64})(?::.*)?")


@dataclass(frozen=True)
class StoredImage:
    """An image of the store. ``sha3_256`` is of the file: what a ``task_package`` names it by."""

    sha3_256: str
    names: tuple[str, ...]
    kind: str
    size_bytes: int
    config: ImageConfig
    created_s: float


def full_name(name: str) -> str:
    """``NAME`` or ``NAME:TAG`` with its tag, ``latest`` when there is none. Raises UsageError."""
    if len(name) > _MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise UsageError(f"{name[:100]!r} cannot name an image", hint="like my-image, team/tool or tool:1.2")
    return name if ":" in name else f"{name}:latest"


class ImageStore:
    """Blocking, quick but for :meth:`add`; safe for several processes at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._files = directory, directory / "files"
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)

    def new_file(self) -> Path:
        """A place in the store to build an image at; :meth:`add` takes it away from there."""
        return self._directory / f".{secrets.token_hex(8)}.part"

    def add(self, built: Path, name: str | None = None) -> StoredImage:
        """Move an image that lies at :meth:`new_file` in. ``name`` is taken from whichever image has it."""
        name = full_name(name) if name is not None else None
        info = inspect_image(built)
        with built.open("rb") as file:
            digest = hashlib.file_digest(file, "sha3_256").hexdigest()
        with self._changing() as index:
            old = index.get(digest)
            names = old.names if old is not None else ()
            if name is not None:
                for other in list(index.values()):
                    if name in other.names:
                        index[other.sha3_256] = replace(other, names=tuple(n for n in other.names if n != name))
                names = tuple(sorted({*names, name}))
            made = old.created_s if old is not None else time.time()
            added = StoredImage(digest, names, info.kind.value, info.size_bytes, info.config, made)
            index[digest] = added
            built.chmod(0o400)
            built.replace(self.path_of(added))
        return added

    def path_of(self, image: StoredImage) -> Path:
        return self._files / image.sha3_256

    def list(self) -> list[StoredImage]:
        """The newest first."""
        return sorted(self._read().values(), key=lambda image: (-image.created_s, image.sha3_256))

    def find(self, reference: str) -> StoredImage | None:
        """By name, ``sha3:<hash>``, or the first 8 or more digits of the hash. Raises UsageError when ambiguous."""
        index = self._read()
        named = f"{reference}:latest" if ":" not in reference else reference
        for image in index.values():
            if named in image.names:
                return image
        link = _HASH_LINK.fullmatch(reference)
        prefix = link[1].lower() if link is not None else reference.lower()
        if not _PREFIX.fullmatch(prefix):
            return None
        found = [image for digest, image in index.items() if digest.startswith(prefix)]
        if len(found) > 1:
            raise UsageError(f"{len(found)} images begin with {prefix}", hint="give more digits")
        return found[0] if found else None

    def resolve(self, reference: str) -> Path:
        """The file that ``reference`` means: as :meth:`find`, else a path. Raises NotFoundError, UsageError."""
        image = self.find(reference)
        if image is not None:
            path = self.path_of(image)
            if path.is_file():
                return path
            raise NotFoundError(f"the file of image {reference} is gone from {self._files}", hint="build it again")
        if (path := Path(reference)).is_file():
            return path
        raise NotFoundError(f"there is no image {reference[:200]!r}", hint="golemp2p image ls, or golemp2p image build")

    def remove(self, reference: str) -> StoredImage:
        """Forget a name; with its last name, or when named by hash, the image goes too. What is left of it."""
        with self._changing() as index:
            image = self.find(reference)
            if image is None:
                raise NotFoundError(f"there is no image {reference[:200]!r}", hint="golemp2p image ls")
            name = f"{reference}:latest" if ":" not in reference else reference
            left = replace(image, names=tuple(n for n in image.names if n != name) if name in image.names else ())
            if left.names:
                index[image.sha3_256] = left
            else:
                del index[image.sha3_256]
                self.path_of(image).unlink(missing_ok=True)
        return left

    # --- the index --------------------------------------------------------------------------------------------------
    def _read(self) -> dict[str, StoredImage]:
        try:
            found = json.loads((self._directory / "index.json").read_text())["images"]
            return {digest: _image(digest, fields) for digest, fields in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ImageError(
                f"{self._directory / 'index.json'} is damaged", hint="delete it; then build the images again"
            ) from exc

    @contextmanager
    def _changing(self) -> Iterator[dict[str, StoredImage]]:
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for a rename's time
            index = self._read()
            yield index
            part = self.new_file()
            part.write_text(json.dumps({"images": {digest: _fields(image) for digest, image in index.items()}}))
            part.replace(self._directory / "index.json")
        finally:
            os.close(descriptor)


def _image(digest: str, fields: dict[str, Any]) -> StoredImage:
    return StoredImage(
        digest,
        tuple(fields["names"]),
        fields["kind"],
        int(fields["size_bytes"]),
        ImageConfig.from_json(fields["config"]),
        float(fields["created_s"]),
    )


def _fields(image: StoredImage) -> dict[str, Any]:
    fields = asdict(image)
    del fields["sha3_256"]
    return fields
