"""Layers on top of each other."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.images.model import ImageError
from golemp2p.images.rootfs import RootFs
from golemp2p.images.tarstream import EntryKind, TarEntry, read_tar
from tests.unit.images.making import info, tar

LAYER_NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "l", "l/x"])
KINDS = st.sampled_from([EntryKind.FILE, EntryKind.DIR, EntryKind.SYMLINK, EntryKind.HARDLINK, EntryKind.SPECIAL])
LINKS = st.sampled_from(["a", "b", "/", "..", "../../..", "l", "a/b", "/b/c", "."])


def stacked(*layers: Sequence[tuple[str | tarfile.TarInfo, bytes]]) -> dict[str, tuple[int, str]]:
    """path -> (layer, link) of everything but directories."""
    rootfs = RootFs()
    for number, layer in enumerate(layers):
        data = tar(layer)
        rootfs.add_layer(read_tar(io.BytesIO(data), 0, len(data)), number)
    return {
        path: (item.source, item.entry.link) for path, item in rootfs.walk() if item.entry.kind is not EntryKind.DIR
    }


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return info(name, tarfile.DIRTYPE), b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return info(name, kind, link=target), b""


def test_an_upper_file_hides_a_lower_one() -> None:
    assert stacked([("etc/a", b"1"), ("etc/b", b"1")], [("etc/a", b"2")]) == {"etc/a": (1, ""), "etc/b": (0, "")}


def test_a_whiteout_takes_away_what_is_below_and_nothing_of_its_own_layer() -> None:
    assert stacked([("a/x", b""), ("b", b"")], [(".wh.a", b""), (".wh.b", b""), ("a/new", b"")]) == {"a/new": (1, "")}
    assert stacked([("a/x", b"")], [("a/new", b""), (".wh.a", b"")]) == {"a/new": (1, "")}


def test_an_opaque_directory_shows_nothing_from_below() -> None:
    lower = [("d/x", b""), ("d/e/y", b""), ("z", b"")]
    assert stacked(lower, [("d/new", b""), ("d/.wh..wh..opq", b"")]) == {"d/new": (1, ""), "z": (0, "")}


def test_a_file_replaces_a_directory_and_a_directory_a_file() -> None:
    assert stacked([("a/x", b""), ("b", b"")], [("a", b""), folder("b"), ("b/y", b"")]) == {
        "a": (1, ""),
        "b/y": (1, ""),
    }


def test_a_layer_writes_through_a_lower_link_inside_the_tree() -> None:
    lower = [folder("usr/bin"), link("bin", "usr/bin"), link("sbin", "/usr/../../bin")]
    found = stacked(lower, [("bin/tool", b""), ("sbin/other", b"")])
    assert found["usr/bin/tool"] == (1, "")
    assert found["usr/bin/other"] == (1, "")


def test_links_that_lead_up_end_at_the_root_of_the_tree() -> None:
    found = stacked([link("out", "../../../../etc")], [("out/passwd", b"")])
    assert found == {"etc/passwd": (1, ""), "out": (0, "../../../../etc")}


def test_links_in_a_circle_are_refused() -> None:
    with pytest.raises(ImageError, match="too many links"):
        stacked([link("a", "b"), link("b", "a"), ("a/x", b"")])


def test_a_hard_link_keeps_the_file_that_it_was_made_to() -> None:
    assert stacked([("a", b"1")], [link("b", "a", tarfile.LNKTYPE)], [("a", b"2")]) == {"a": (2, ""), "b": (0, "")}


@pytest.mark.parametrize("target", ["nowhere", "../etc/passwd", "/proc/self", "d"])
def test_hard_links_to_what_is_not_in_the_image_are_refused(target: str) -> None:
    with pytest.raises(ImageError):
        stacked([folder("d"), link("b", target, tarfile.LNKTYPE)])


def test_too_many_files_and_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(ImageError, match="too large"):
        stacked([("a", b"123456"), ("b", b"123456")])
    monkeypatch.setattr(limits, "MAX_IMAGE_FILES", 3)
    with pytest.raises(ImageError, match="too many"):
        stacked([(name, b"") for name in "abcd"])


@given(st.lists(st.lists(st.tuples(LAYER_NAMES, KINDS, LINKS), max_size=6), max_size=4))
def test_any_layers_make_a_tree_without_whiteouts_or_are_refused(
    layers: list[list[tuple[str, EntryKind, str]]],
) -> None:
    rootfs = RootFs()
    try:
        for number, layer in enumerate(layers):
            rootfs.add_layer([TarEntry(name, kind, link=target) for name, kind, target in layer], number)
    except ImageError:
        return
    paths = [path for path, _ in rootfs.walk()]
    assert len(paths) == len(set(paths))
    assert not any(part.startswith(".wh.") or part in ("..", ".") for path in paths for part in path.split("/"))


def test_whiteouts_in_great_number_cost_little_each() -> None:
    """100,000 times 100,000 would be minutes; a second's worth is no time limit but a bound on steps."""
    files = [TarEntry(f"d/{number}", EntryKind.FILE) for number in range(20_000)]
    rootfs = RootFs()
    rootfs.add_layer(files, 0)
    rootfs.add_layer([*files, *(TarEntry(".wh.d", EntryKind.FILE) for _ in range(20_000))], 1)
    assert sum(1 for _ in rootfs.walk()) == 20_002


def test_paths_over_endless_detours_are_refused() -> None:
    detour = TarEntry("l", EntryKind.SYMLINK, link="d/../" * 800 + "d")
    rootfs = RootFs()
    with pytest.raises(ImageError, match="too many links"):
        rootfs.add_layer([TarEntry("d", EntryKind.DIR), detour, *[TarEntry("l/x", EntryKind.FILE)] * 20_000], 0)
