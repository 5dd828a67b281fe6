"""A volume's first content stays in the volume, whatever the image's tar holds."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.images.model import VOLUMES_LABEL, labelled_volumes
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.seeding import Room, seed_volume
from tests.unit.images.making import info, tar

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
MIB = 1024 * 1024
Entry = tuple[str | tarfile.TarInfo, bytes]
TOP: Entry = (info("./", DIR, mode=0o755), b"")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    made = tmp_path / "volume"
    made.mkdir()
    return made


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def seed(volume: Path, entries: Sequence[Entry], room: Room | None = None) -> None:
    seed_volume(volume, io.BytesIO(tar(entries)), room or Room(MIB))


def test_files_directories_links_and_modes_are_as_in_the_image(volume: Path) -> None:
    inner = info("./deep/tool", mode=0o6755)
    inner.mtime = 1_000_000
    seed(
        volume,
        [
            (info("./", DIR, mode=0o1770), b""),
            ("./a", b"content"),
            (info("./deep", DIR, mode=0o2750), b""),
            (inner, b"#!"),
            (info("./deep/link", LINK, link="../a"), b""),
            (info("./hard", HARD, link="./deep/tool"), b""),
            (info("./pipe", tarfile.FIFOTYPE), b""),
            (info("./disk", tarfile.BLKTYPE), b""),
        ],
    )
    assert names(volume) == ["a", "deep", "hard"]
    assert (volume / "deep/link").read_text() == "content"
    tool = (volume / "deep/tool").stat()
    assert stat.S_IMODE(tool.st_mode) == 0o755  # no set-id bits on the host
    assert (tool.st_mtime, tool.st_nlink) == (1_000_000, 2)
    assert stat.S_IMODE(volume.stat().st_mode) == 0o1770
    assert stat.S_IMODE((volume / "deep").stat().st_mode) & 0o777 == 0o750


def test_owners_are_the_images_where_we_are_root(volume: Path) -> None:
    assert os.geteuid() == 0, "this test needs root"
    entries: list[Entry] = [
        (info("./", DIR, mode=0o700, uid=999), b""),
        (info("./file", uid=1234), b""),
        (info("./link", LINK, link="/etc/passwd", uid=4321), b""),
    ]
    before = Path("/etc/passwd").stat().st_uid
    seed(volume, entries)
    assert volume.stat().st_uid == 999
    assert (volume / "file").stat().st_uid == 1234
    assert (volume / "link").lstat().st_uid == 4321
    assert Path("/etc/passwd").stat().st_uid == before


def test_where_we_are_not_root_we_can_enter_and_remove_all_of_it(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    seed(volume, [TOP, (info("./shut", DIR, mode=0, uid=999), b""), (info("./shut/file", mode=0, uid=999), b"")])
    assert stat.S_IMODE((volume / "shut").stat().st_mode) == 0o700
    assert (volume / "shut/file").stat().st_uid == os.getuid()


def test_a_tar_that_names_the_directory_by_its_last_component_is_as_good(volume: Path) -> None:
    seed(volume, [(info("work/", DIR), b""), ("work/a", b"1"), (info("work/b", HARD, link="work/a"), b"")])
    assert names(volume) == ["a", "b"]


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([("./../secret", b"x")], id="climbs"),
        pytest.param([(info("./l", LINK, link=".."), b""), ("./l/secret", b"x")], id="file-through-a-link"),
        pytest.param([(info("./l", LINK, link=".."), b""), (info("./l/d", DIR), b"")], id="directory-through-a-link"),
        pytest.param([(info("./l", LINK, link="../secret"), b""), ("./l", b"x")], id="file-over-a-link"),
        pytest.param(
            [(info("./l", LINK, link=".."), b""), (info("./l", DIR, mode=0), b"")], id="directory-over-a-link"
        ),
        pytest.param([(info("./h", HARD, link="../secret"), b"")], id="hard-link-out"),
        pytest.param(
            [(info("./l", LINK, link=".."), b""), (info("./h", HARD, link="./l/secret"), b"")], id="by-a-link"
        ),
        pytest.param([(info("./h", HARD, link="./"), b"")], id="hard-link-to-the-top"),
        pytest.param([(info("./h", HARD, link="./none"), b"")], id="hard-link-to-nothing"),
        pytest.param([("./none/file", b"x")], id="no-such-directory"),
        pytest.param([("./a", b"x"), ("./a", b"y")], id="twice"),
        pytest.param([("./" + "n" * 300, b"x")], id="long-name"),
        pytest.param([(info("./l", LINK, link="x" * 5000), b"")], id="long-link"),
    ],
)
def test_nothing_leads_out_and_nothing_is_replaced(volume: Path, entries: Sequence[Entry]) -> None:
    outside = volume.parent
    mode = outside.stat().st_mode
    with pytest.raises(RuntimeFailureError, match="volume"):
        seed(volume, [TOP, *entries])
    assert names(outside) == ["secret", "volume"]
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").stat().st_nlink == 1
    assert outside.stat().st_mode == mode


def test_entries_beside_the_volumes_own_directory_are_refused(volume: Path) -> None:
    with pytest.raises(RuntimeFailureError, match="not in the volume"):
        seed(volume, [(info("work/", DIR), b""), ("other/a", b"1")])


def test_sizes_and_numbers_are_bounded_over_all_volumes(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(MIB)
    seed(volume, [TOP, ("./a", bytes(700_000))], room)
    other = volume.parent / "other"
    other.mkdir()
    with pytest.raises(RuntimeFailureError, match="1 MiB of disk"):
        seed(other, [TOP, ("./b", bytes(400_000))], room)
    assert not (other / "b").exists()  # refused before it is written
    with pytest.raises(RuntimeFailureError, match="of disk"):  # small files take whole blocks
        seed(other, [TOP, *((f"./{number}", b"1") for number in range(100))], room)
    monkeypatch.setattr(limits, "MAX_SEED_FILES", 3)
    third = volume.parent / "third"
    third.mkdir()
    with pytest.raises(RuntimeFailureError, match="too many files"):
        seed(third, [TOP, *((f"./{number}", b"") for number in range(4))], Room(MIB))


def test_it_ends_between_files_when_it_is_not_wanted_any_more(volume: Path) -> None:
    class GoneError(Exception):
        pass

    def check() -> None:
        if (volume / "a").exists():
            raise GoneError

    opened = len(names(Path("/proc/self/fd")))
    with pytest.raises(GoneError):
        seed_volume(volume, io.BytesIO(tar([TOP, ("./a", b""), ("./b", b"")])), Room(MIB), check=check)
    assert names(volume) == ["a"]
    assert len(names(Path("/proc/self/fd"))) == opened


def test_a_damaged_tar_is_refused(volume: Path) -> None:
    data = tar([TOP, ("./a", bytes(5_000))])
    for broken in (data[:700], data[:2_000], data[:100]):
        with pytest.raises(RuntimeFailureError, match="cannot copy"):
            seed_volume(volume, io.BytesIO(broken), Room(MIB))


_names = st.lists(st.sampled_from(["a", "b", "..", ".", "l", "volume", "secret"]), min_size=1, max_size=4).map("/".join)
_entries = st.builds(
    lambda name, kind, link: info(name, kind, link=link),
    _names,
    st.sampled_from([DIR, LINK, HARD, tarfile.REGTYPE]),
    _names,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(_entries, max_size=8))
def test_no_tar_changes_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tarfile.TarInfo]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_text("secret")
    (outside / "volume").mkdir()
    with contextlib.suppress(RuntimeFailureError):
        seed(outside / "volume", [TOP, *((entry, b"x" if entry.isreg() else b"") for entry in entries)])
    assert names(outside) == ["secret", "volume"]
    assert (outside / "secret").read_text() == "secret"
    assert (outside / "secret").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("said", "found"),
    [('["/a", "/b"]', ["/a", "/b"]), ("", []), ("{}", []), ("[", []), ("3", []), ("[1]", ["1"]), ("[" * 100_000, [])],
    ids=["list", "empty", "object", "damage", "number", "numbers", "deep"],
)
def test_a_label_of_volumes_is_read_without_trust(said: str, found: list[str]) -> None:
    assert labelled_volumes({VOLUMES_LABEL: said}) == found
    assert labelled_volumes({}) == []
