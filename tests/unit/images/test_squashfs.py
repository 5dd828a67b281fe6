"""Reading squashfs: everything that mksquashfs makes, and nothing worse than an ImageError from what it does not."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.images.blocks import inflate_block
from golemp2p.images.model import ImageError
from golemp2p.images.squashfs import SUPERBLOCK, SquashFs
from golemp2p.images.tarstream import EntryKind
from tests.unit.images.making import small_tree, squashfs


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module")
def images(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    return {
        name: squashfs(tree, folder / f"{name}.sqfs", name).read_bytes()
        for name in ("gzip", "lzo", "xz", "zstd", "lz4")
    }


def opened(data: bytes) -> SquashFs:
    return SquashFs(io.BytesIO(data), len(data))


def read_all(data: bytes, most_bytes: int = 20_000_000) -> None:
    """Walk and read; what damage makes of sizes must not make this test slow."""
    squashed, left = opened(data), most_bytes
    for _, node in squashed.walk():
        if node.kind is EntryKind.FILE and left > 0:
            for block in squashed.read(node):
                left -= len(block)
                if left < 0:
                    break


@pytest.mark.parametrize("compressor", ["gzip", "lzo", "xz", "zstd"])
def test_every_file_is_read_as_it_was(tree: Path, images: dict[str, bytes], compressor: str) -> None:
    squashed = opened(images[compressor])
    found = dict(squashed.walk())
    assert sorted(found) == sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*"))
    for name, node in found.items():
        path = tree / name
        facts = path.lstat()
        assert node.mode == facts.st_mode & 0o7777
        assert (node.uid, node.gid, node.mtime_s) == (facts.st_uid, facts.st_gid, int(facts.st_mtime))
        if path.is_symlink():
            assert node.link == str(path.readlink())
        elif path.is_file():
            assert b"".join(squashed.read(node)) == path.read_bytes()
            assert node.links == facts.st_nlink
    assert found["bin/tool"].number == found["deep/tool"].number
    assert found["deep/pipe"].kind is EntryKind.SPECIAL


def test_a_compression_that_is_not_known_is_named(images: dict[str, bytes]) -> None:
    with pytest.raises(ImageError, match="lz4"):
        opened(images["lz4"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.data())
def test_flipped_bits_and_cuts_never_do_more_than_raise(images: dict[str, bytes], data: st.DataObject) -> None:
    whole = bytearray(images[data.draw(st.sampled_from(["gzip", "lzo", "xz", "zstd"]))])
    # Half of the damage goes where the tables are: at the end, and into the superblock.
    places = st.one_of(
        st.integers(0, len(whole) - 1), st.integers(len(whole) - 4000, len(whole) - 1), st.integers(0, 95)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(places)] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    with contextlib.suppress(ImageError):
        read_all(bytes(whole[:cut]))


@settings(deadline=None)
@given(st.binary(max_size=3000), st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8))
def test_a_superblock_before_noise_is_refused(noise: bytes, offsets: list[int]) -> None:
    small = [offset % (len(noise) + 200) for offset in offsets]
    head = SUPERBLOCK.pack(b"hsqs", 5, 0, 131_072, 1, 1, 17, 0, 1, 4, 0, small[0], 96 + len(noise), *small[2:])
    with contextlib.suppress(ImageError):
        read_all(head + noise)


def test_a_file_larger_than_an_image_may_be_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 1_000_000)
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/huge").open("wb") as file:
        file.truncate(20_000_000)
    data = squashfs(tmp_path / "tree", tmp_path / "image", "gzip").read_bytes()
    assert len(data) < 10_000
    with pytest.raises(ImageError, match="holds a file of"):
        read_all(data)


def test_a_directory_that_contains_itself_ends_at_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by hand, uncompressed: the root's one entry is the root."""
    monkeypatch.setattr(limits, "MAX_IMAGE_FILES", 1_000)
    listing = struct.pack("<III", 0, 0, 1) + struct.pack("<HhHH", 0, 0, 1, 0) + b"x"
    inode = struct.pack("<HHHHII", 1, 0o755, 0, 0, 0, 1) + struct.pack("<IIHHI", 0, 2, len(listing) + 3, 0, 2)

    def metadata(data: bytes) -> bytes:
        return struct.pack("<H", len(data) | 0x8000) + data

    inodes_at = 96
    listing_at = inodes_at + len(metadata(inode))
    ids_at = listing_at + len(metadata(listing))
    index_at = ids_at + len(metadata(bytes(4)))
    body = metadata(inode) + metadata(listing) + metadata(bytes(4)) + struct.pack("<Q", ids_at)
    tables = (0, 96 + len(body), index_at, 2**64 - 1, inodes_at, listing_at, 2**64 - 1, 2**64 - 1)
    head = SUPERBLOCK.pack(b"hsqs", 1, 0, 131_072, 0, 1, 17, 0, 1, 4, 0, *tables)
    assert [name for name, _ in opened(head + body).list(opened(head + body).root())] == ["x"]
    with pytest.raises(ImageError, match=r"deeply|too many"):
        read_all(head + body)


@pytest.mark.parametrize("compressor", [1, 3, 4, 6])
@given(noise=st.binary(max_size=200))
def test_noise_is_no_block(compressor: int, noise: bytes) -> None:
    with contextlib.suppress(ImageError):
        assert len(inflate_block(compressor, noise, 8192)) <= 8192


def test_blocks_that_grow_beyond_what_a_block_can_be_are_refused() -> None:
    import lzma
    import zlib

    import lzallright
    import zstandard

    much = bytes(10_000_000)
    for compressor, data in (
        (1, zlib.compress(much)),
        (3, lzallright.LZOCompressor().compress(much)),
        (4, lzma.compress(much)),
        (6, zstandard.compress(much)),
    ):
        with pytest.raises(ImageError):
            inflate_block(compressor, data, 131_072)
