"""Directories as one file: tar (plain, gz, bz2, xz) and zip, for `transfer` commands with a ``format``.

What comes out of an archive was packed by a stranger: nothing leaves the target directory by '..', an absolute path or
a link; devices, pipes and hard links are refused; sizes and counts are bounded while unpacking, whatever the headers
say. All functions block. Raises :class:`ArchiveError`.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal, Self, cast

from golemp2p import limits
from golemp2p.errors import UsageError

FORMATS: Final = ("tar", "tar.gz", "tar.bz2", "tar.xz", "zip")
_BLOCK_BYTES: Final = 1024 * 1024
_ZIP_LINK: Final = stat.S_IFLNK << 16
_EXTENDED: Final = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_MAX_GLOBALS: Final = 64  # git writes one
_MAX_LINK_CHARS: Final = 4096  # as the kernel


Checkpoint = Callable[[], object]


def _go_on() -> None:
    """The checkpoint of who never gives up."""


class ArchiveError(UsageError):
    """The archive is broken, hostile or too large; or the directory cannot be packed."""

    code = "archive"


def check_format(name: str) -> str:
    """The format's own name (``tgz`` is ``tar.gz``). Raises ArchiveError."""
    known = {"tgz": "tar.gz", "tbz2": "tar.bz2", "txz": "tar.xz"}.get(name.lower(), name.lower())
    if known not in FORMATS:
        raise ArchiveError(f"transfer format {name[:20]!r} is not known", hint=f"one of {', '.join(FORMATS)}")
    return known


def pack(directory: Path, target: Path, form: str, *, checkpoint: Checkpoint = _go_on) -> None:
    """All files, directories and links below ``directory``; owners and special files are left out. Reproducible.

    ``checkpoint`` is called often; what it raises ends the work.
    """
    with _mapped(target.name):
        if form == "zip":
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
                for path, name in _walk(directory):
                    _zip_add(archive, path, name, checkpoint)
            return
        with _stream(target, "wb", form) as file, tarfile.open(fileobj=file, mode="w|") as tar:
            for path, name in _walk(directory):
                checkpoint()
                _tar_add(tar, path, name, checkpoint)


def unpack(
    archive: Path,
    directory: Path,
    form: str,
    *,
    max_bytes: int,
    max_files: int = limits.MAX_TREE_FILES,
    checkpoint: Checkpoint = _go_on,
) -> None:
    """Into the new directory ``directory``. ``checkpoint`` as in :func:`pack`."""
    directory.mkdir(mode=0o700)
    out = _Unpacked(directory, max_bytes, max_files, checkpoint)
    with _mapped(archive.name):
        if form == "zip":
            with _Careful(archive) as file, zipfile.ZipFile(file) as zipped:
                if len(zipped.infolist()) > max_files:
                    raise ArchiveError(f"the archive holds more than {max_files} files")
                for info in zipped.infolist():
                    _zip_extract(zipped, info, out)
        else:
            # As a stream: the sizes of the headers alone never make us read ahead or seek.
            with (
                _stream(archive, "rb", form) as stream,
                tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar,
            ):
                while (member := tar.next()) is not None:
                    _tar_extract(tar, member, out)
                    tar.members.clear()  # type: ignore[attr-defined] # it would keep each, with all its attributes
                    if len(tar.pax_headers) > _MAX_GLOBALS:
                        raise ArchiveError(f"the archive has more than {_MAX_GLOBALS} global attributes")
        out.finish()


class _Member(tarfile.TarInfo):
    """tarfile reads extended headers and the maps of sparse files of any size into memory; this one refuses them."""

    # Of tarfile's inner steps the one that every version goes through before it reads on: Debian's 3.11.2 has a frombuf
    # of its own. The tests of bombs tell when this is not so any more.
    def _proc_member(self, tar: tarfile.TarFile) -> Self | None:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise ArchiveError("the archive holds a sparse file, which is not supported", hint="pack without --sparse")
        extended = self.type in _EXTENDED or self.type not in tarfile.SUPPORTED_TYPES
        if extended and self.type != tarfile.CONTTYPE and self.size > limits.MAX_ARCHIVE_HEADER_BYTES:
            raise ArchiveError(
                f"the archive has a header of {self.size} bytes", hint=f"at most {limits.MAX_ARCHIVE_HEADER_BYTES}"
            )
        found: Self | None = super()._proc_member(tar)  # type: ignore[misc] # private to tarfile
        return found

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise ArchiveError("the archive holds a sparse file, which is not supported", hint="pack without --sparse")


class _Careful(io.FileIO):
    """A zip file to read from: its directory, which zipfile reads at once and makes ten times as large, is bounded."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > limits.MAX_ZIP_DIRECTORY_BYTES:
            raise ArchiveError(
                f"the zip's directory has {size} bytes", hint=f"at most {limits.MAX_ZIP_DIRECTORY_BYTES}"
            )
        return super().read(size) or b""


class _Xz:
    """As lzma.LZMAFile, but the memory that a header may demand (up to 4 GiB) is bounded."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._decoder = raw, self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.MAX_XZ_MEMORY_BYTES)

    def read(self, size: int) -> bytes:
        while True:
            block = b""
            if self._decoder.eof:  # streams may follow each other, with zeros between them
                block = (self._decoder.unused_data or self._raw.read(_BLOCK_BYTES)).lstrip(b"\0")
                if not block:
                    return b""
                self._decoder = self._new()
            elif self._decoder.needs_input:
                block = self._raw.read(_BLOCK_BYTES)
                if not block:
                    raise EOFError("it is cut off")
            if data := self._decoder.decompress(block, size):
                return data


class _Unpacked:
    """The target directory, with what was made in it so far. Links are made last, so that no write goes through one."""

    def __init__(self, root: Path, max_bytes: int, max_files: int, checkpoint: Checkpoint) -> None:
        self._root, self._checkpoint = root, checkpoint
        self._max_bytes, self._bytes = max_bytes, 0
        self._max_files, self._files = max_files, 0
        self._links: dict[PurePosixPath, str] = {}
        self._kept: set[Path] = set()  # directories that are there

    def file(self, name: str, data: IO[bytes], mode: int) -> None:
        path = self._place(name)
        try:
            target = path.open("xb")
        except FileExistsError:
            raise ArchiveError(f"the archive holds {name[:200]!r} twice") from None
        with target:
            while block := data.read(_BLOCK_BYTES):
                self._checkpoint()
                self._bytes += len(block)
                if self._bytes > self._max_bytes:
                    raise ArchiveError(f"the archive unpacks to more than {self._max_bytes} bytes")
                target.write(block)
            os.fchmod(target.fileno(), (mode & 0o777) | 0o600)

    def directory(self, name: str) -> None:
        if PurePosixPath(name) != PurePosixPath():
            path = self._place(name)
            path.mkdir(exist_ok=True)
            self._kept.add(path)

    def link(self, name: str, target: str) -> None:
        path = PurePosixPath(name)
        self._place(name)
        if len(target) > _MAX_LINK_CHARS:
            raise ArchiveError(f"the link {name[:200]!r} has a target of {len(target)} characters")
        if target.startswith("/") or _climbs(path.parent, target):
            raise ArchiveError(f"the link {name[:200]!r} leads out of the archive, to {target[:200]!r}")
        self._links[path] = target

    def finish(self) -> None:
        for name, target in self._links.items():
            path = self._root / name
            try:
                path.symlink_to(target)
            except FileExistsError:
                raise ArchiveError(f"the archive holds {str(name)[:200]!r} twice") from None

    def _place(self, name: str) -> Path:
        """Where ``name`` goes, its directory made."""
        self._count()
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name or ("\\" in name and os.sep == "\\"):
            raise ArchiveError(f"the archive holds the path {name[:200]!r}, which leads out of it")
        if len(pure.parts) > limits.MAX_ACTIVITY_DIR_DEPTH or any(len(os.fsencode(p)) > 255 for p in pure.parts):
            raise ArchiveError(f"the archive holds a path that is too long or too deep: {name[:200]!r}")
        path = self._root / pure
        if path != self._root:
            self._make(path.parent)
        return path

    def _count(self) -> None:
        self._checkpoint()
        self._files += 1
        if self._files > self._max_files:
            raise ArchiveError(f"the archive holds more than {self._max_files} files")

    def _make(self, path: Path) -> None:
        """With all above it; each counts, for it takes its place on the disk."""
        missing = []
        while path != self._root and path not in self._kept:
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            self._count()
            directory.mkdir(exist_ok=True)
            self._kept.add(directory)


def _climbs(start: PurePosixPath, target: str) -> bool:
    depth = len(start.parts)
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _tar_extract(tar: tarfile.TarFile, member: tarfile.TarInfo, out: _Unpacked) -> None:
    if member.isdir():
        out.directory(member.name)
    elif member.issym():
        out.link(member.name, member.linkname)
    elif member.isreg():
        data = tar.extractfile(member)
        assert data is not None
        out.file(member.name, data, member.mode)
    else:
        raise ArchiveError(f"{member.name[:200]!r} is neither file, directory nor symbolic link")


def _zip_extract(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, out: _Unpacked) -> None:
    mode = info.external_attr >> 16
    if info.compress_type == zipfile.ZIP_LZMA:  # its header may demand gigabytes of memory
        raise ArchiveError(f"{info.filename[:200]!r} is packed by lzma, which is not supported in a zip")
    if info.is_dir():
        out.directory(info.filename)
    elif stat.S_ISLNK(mode):
        with zipped.open(info) as data:
            out.link(info.filename, data.read(4096).decode("utf-8", "replace"))
    elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
        with zipped.open(info) as data:
            out.file(info.filename, data, mode & 0o777 or 0o644)
    else:
        raise ArchiveError(f"{info.filename[:200]!r} is neither file, directory nor symbolic link")


class _Checked(io.FileIO):
    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        super().__init__(path)
        self._checkpoint = checkpoint

    def read(self, size: int | None = -1, /) -> bytes:
        self._checkpoint()
        return super().read(size) or b""


def _tar_add(tar: tarfile.TarFile, path: Path, name: str, checkpoint: Checkpoint) -> None:
    info = _anonymous(tar.gettarinfo(path, name))
    if info.isreg():
        with _Checked(path, checkpoint) as source:
            tar.addfile(info, source)
    else:
        tar.addfile(info)


def _zip_add(archive: zipfile.ZipFile, path: Path, name: str, checkpoint: Checkpoint) -> None:
    facts = path.lstat()
    info = zipfile.ZipInfo(f"{name}/" if stat.S_ISDIR(facts.st_mode) else name)
    info.external_attr = (facts.st_mode & 0xFFFF) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    if stat.S_ISLNK(facts.st_mode):
        archive.writestr(info, str(path.readlink()))
    elif stat.S_ISDIR(facts.st_mode):
        archive.writestr(info, b"")
    else:
        with archive.open(info, "w", force_zip64=True) as target, _Checked(path, checkpoint) as source:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def _walk(directory: Path) -> Iterator[tuple[Path, str]]:
    """(path, name in the archive) of all below it in a fixed order; directories before what is in them."""
    todo = [directory]
    while todo:
        here = todo.pop()
        for path in sorted(here.iterdir()):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                todo.append(path)
            elif not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                continue
            yield path, path.relative_to(directory).as_posix()


@contextlib.contextmanager
def _stream(path: Path, mode: Literal["rb", "wb"], form: str) -> Iterator[IO[bytes]]:
    """The tar stream inside the compression."""
    with path.open(mode) as raw:
        match form:
            case "tar.gz":  # without name and time, which tarfile would put in
                with gzip.GzipFile("", mode, 6, raw, mtime=0) as file:
                    yield cast(IO[bytes], file)
            case "tar.bz2":
                with bz2.BZ2File(raw, mode) as packed:
                    yield cast(IO[bytes], packed)
            case "tar.xz":
                if mode == "rb":
                    yield cast(IO[bytes], _Xz(raw))
                    return
                with lzma.LZMAFile(raw, mode) as squeezed:
                    yield cast(IO[bytes], squeezed)
            case _:
                yield raw


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as exc:
        raise ArchiveError(f"the archive is broken: {exc}") from None
    except (UnicodeError, ValueError, OverflowError, IndexError) as exc:  # IndexError: tarfile of Python 3.11.2
        raise ArchiveError(f"the archive has a bad header: {exc}") from None
    except OSError as exc:  # also what bz2 and lzma raise for bad data
        raise ArchiveError(f"cannot read or write {what}: {exc.strerror or exc}") from None
