"""Building: the same files give the same bytes, and what cannot be in an image is named."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from golemp2p.images.archive import open_archive
from golemp2p.images.build import BuildOptions, build_image
from golemp2p.images.converting import plain_layers
from golemp2p.images.inspecting import inspect_image
from golemp2p.images.model import ImageError, ImageKind
from tests.unit.images.making import docker_archive, gvmi, oci_blobs, small_tree, squashfs, tar

LAYER = tar([("etc/motd", b"hi")])


def members(image: Path, tmp_path: Path) -> dict[str, tarfile.TarInfo]:
    """Of the one layer."""
    with image.open("rb") as file, ExitStack() as files:
        (layer,) = plain_layers(file, open_archive(file), tmp_path, 10**9, files)
        layer.file.seek(layer.offset)
        data = layer.file.read(layer.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_the_same_files_make_the_same_image_whenever_they_were_written(tmp_path: Path) -> None:
    images = []
    for number in range(2):
        tree = small_tree(tmp_path / f"tree-{number}")
        os.utime(tree / "etc/motd", (number, number))
        build_image(str(tree), tmp_path / f"image-{number}")
        images.append((tmp_path / f"image-{number}").read_bytes())
    assert images[0] == images[1]
    found = members(tmp_path / "image-0", tmp_path)
    assert found["bin/tool"].mode == 0o4755
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {(0, 0, 0)}
    assert found["deep/tool"].linkname == "bin/tool"
    assert found["bin/sh"].linkname == "tool"


def test_special_files_are_left_out_with_a_warning(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tree / "s"))
        said: list[str] = []
        build_image(str(tree), tmp_path / "image", warn=said.append)
    assert sorted(said) == [
        "left out: deep/pipe is a device, socket or pipe",
        "left out: s is a device, socket or pipe",
    ]
    assert not {"deep/pipe", "s"} & set(members(tmp_path / "image", tmp_path))


def test_options_go_into_the_configuration(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    options = BuildOptions(("/bin/tool",), ("-v",), (("PATH", "/x"), ("A", "1")), "/tmp", "1000:1000")
    config = build_image(str(tree), tmp_path / "image", options).config
    assert (config.entrypoint, config.cmd, config.workdir, config.user) == (
        ("/bin/tool",),
        ("-v",),
        "/tmp",
        "1000:1000",
    )
    assert config.env == (("PATH", "/x"), ("A", "1"))
    changed = build_image(
        str(tmp_path / "image"), tmp_path / "again", BuildOptions(cmd=("-q",), env=(("A", "2"),))
    ).config
    assert (changed.entrypoint, changed.cmd, changed.env) == (("/bin/tool",), ("-q",), (("PATH", "/x"), ("A", "2")))


def test_archives_and_layouts_become_the_same_oci_archive(tmp_path: Path) -> None:
    (tmp_path / "saved").write_bytes(docker_archive([LAYER, LAYER]))
    layout = tmp_path / "layout"
    for name, data in oci_blobs([LAYER, LAYER], packed=False).items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(data)
    for number, source in enumerate(("saved", "layout", "image-0")):
        info = build_image(str(tmp_path / source), tmp_path / f"image-{number}")
        assert info.kind is ImageKind.OCI_ARCHIVE
        assert len(info.layers) == 2
    assert len({(tmp_path / f"image-{number}").read_bytes() for number in range(3)}) == 1


def test_a_gvmi_stays_as_it_is(tmp_path: Path) -> None:
    data = gvmi(squashfs(small_tree(tmp_path / "tree"), tmp_path / "s", "gzip").read_bytes())
    (tmp_path / "a.gvmi").write_bytes(data)
    assert build_image(str(tmp_path / "a.gvmi"), tmp_path / "image").kind is ImageKind.GVMI
    assert (tmp_path / "image").read_bytes() == data
    with pytest.raises(ImageError, match="as it is"):
        build_image(str(tmp_path / "a.gvmi"), tmp_path / "image", BuildOptions(cmd=("x",)))


def test_what_cannot_be_built_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/Dockerfile").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/oci-layout").touch()
    (tmp_path / "noise").write_bytes(b"noise")
    before = sorted(tmp_path.iterdir())
    for source, words in (
        ("docker", "docker build"),
        ("empty", "empty"),
        ("layout", "index"),
        ("noise", "starts with"),
    ):
        with pytest.raises(ImageError, match=words):
            build_image(str(tmp_path / source), tmp_path / "image")
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_built_is_read_back(tmp_path: Path) -> None:
    built = build_image(str(small_tree(tmp_path / "tree")), tmp_path / "image")
    assert inspect_image(tmp_path / "image") == built
