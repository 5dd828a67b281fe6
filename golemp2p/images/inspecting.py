"""What kind of image a file is, and what it says of itself. Blocking: call it in a worker thread or process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from golemp2p.images.archive import Archive, open_archive
from golemp2p.images.gvmi import read_trailer
from golemp2p.images.model import ImageConfig, ImageError, ImageInfo, ImageKind, Layer
from golemp2p.images.plain import open_plain
from golemp2p.images.squashfs import MAGIC, SquashFs


class Squashed:
    """An image that is one squashfs."""

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        self.file = file
        self.squashfs = SquashFs(file, size)
        config = read_trailer(file, self.squashfs.used_bytes)
        self.kind = ImageKind.SQUASHFS if config is None else ImageKind.GVMI
        self.config = config or ImageConfig()


@contextmanager
def open_image(path: Path, *, directory: Path | None = None) -> Iterator[tuple[IO[bytes], Archive | Squashed]]:
    """The image in ``path``. ``directory`` is where a compressed one is unpacked to. Raises ImageError."""
    with open_plain(path, directory=directory) as file:
        file.seek(0)
        head = file.read(512)
        if head.startswith(MAGIC):
            yield file, Squashed(file)
        elif head[257:262] == b"ustar" or (
            head[:1] not in (b"", b"\0") and head[156:157] in b"0\0005" and _old_tar(head)
        ):
            yield file, open_archive(file)
        else:
            raise ImageError(
                f"the file is no image: it starts with {_shown(head[:8])}",
                hint="known are docker save archives, OCI layouts in a tar, gvmi and squashfs",
            )


def inspect_image(path: Path) -> ImageInfo:
    """Kind, configuration and layers. Raises ImageError."""
    with open_image(path) as (_, image):
        size = path.stat().st_size
        if isinstance(image, Archive):
            return ImageInfo(image.kind, image.config, image.layer_list(), size)
        return ImageInfo(image.kind, image.config, (Layer("", image.squashfs.used_bytes),), size)


def _old_tar(head: bytes) -> bool:
    """A header from before ustar: its checksum decides."""
    try:
        return int(head[148:156].strip(b"\0 "), 8) == sum(head[:148]) + 256 + sum(head[156:])
    except ValueError:
        return False


def _shown(data: bytes) -> str:
    if not data:
        return "nothing: it is empty"
    return repr(data.decode()) if data.isascii() and data.decode().isprintable() else data.hex(" ")
