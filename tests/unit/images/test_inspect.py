"""What a file is found to be, and what is said of files that are nothing."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.images.inspecting import inspect_image
from golemp2p.images.model import ImageError, ImageKind, parse_config
from tests.unit.images.making import (
    CONFIG,
    docker_archive,
    gvmi,
    image_config,
    info,
    oci_archive,
    oci_blobs,
    sha256,
    small_tree,
    squashfs,
    tar,
)

LAYER = tar([("etc/motd", b"hi")])
SQUASHED = "tiny.sqfs"


@pytest.fixture(scope="module")
def squashed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("squash")
    return squashfs(small_tree(folder / "tree"), folder / SQUASHED, "lzo").read_bytes()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (docker_archive([LAYER, LAYER]), ImageKind.DOCKER_ARCHIVE),
        (oci_archive([LAYER]), ImageKind.OCI_ARCHIVE),
        (oci_archive([LAYER], packed=False), ImageKind.OCI_ARCHIVE),
        (gzip.compress(docker_archive([LAYER])), ImageKind.DOCKER_ARCHIVE),
        (gzip.compress(oci_archive([LAYER])), ImageKind.OCI_ARCHIVE),
    ],
)
def test_archives_say_how_they_are_started(tmp_path: Path, data: bytes, kind: ImageKind) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    found = inspect_image(path)
    assert found.kind is kind
    assert found.size_bytes == len(data)
    assert found.config.cmd == ("/bin/sh",)
    assert found.config.env == (("PATH", "/bin"), ("A", "b=c"))
    assert found.config.volumes == ("/data",)
    assert found.config.workdir == "/work"
    assert all(layer.digest.startswith("sha256:") for layer in found.layers)


def test_a_docker_save_of_today_is_read_by_its_verified_side(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(tar([*oci_blobs([LAYER]).items(), ("manifest.json", b"[]")]))
    assert inspect_image(path).kind is ImageKind.OCI_ARCHIVE


def test_a_gvmi_and_a_bare_squashfs_are_told_apart(tmp_path: Path, squashed: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(gvmi(squashed))
    found = inspect_image(path)
    assert found.kind is ImageKind.GVMI
    assert found.config == parse_config(CONFIG)
    path.write_bytes(squashed)
    assert inspect_image(path).kind is ImageKind.SQUASHFS


@pytest.mark.parametrize(
    ("break_", "words"),
    [
        (lambda data: data[:-1] + b"x", "no length"),
        (lambda data: data[:-8] + b"99999999", "claims"),
        (lambda data: data[:-8] + b"00000010", "checksum"),
        (lambda data: data[:-20] + b"x" + data[-19:], "checksum"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:50], "no squashfs"),
    ],
)
def test_a_damaged_gvmi_is_said_to_be(tmp_path: Path, squashed: bytes, break_: object, words: str) -> None:
    assert callable(break_)
    path = tmp_path / "image"
    path.write_bytes(break_(gvmi(squashed)))
    with pytest.raises(ImageError, match=words):
        inspect_image(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "starts with '#!/bin/s'"),
        (b"\x7fELF\x02\x01\x01\0", "7f 45 4c 46"),
        (tar([("hello", b"")]), "but hello"),
        (tar([("../x", b"")]), "leads out"),
        (b"\xfd7zXZ\0rest", "xz compression is not supported"),
        (gzip.compress(docker_archive([LAYER]))[:-30], "damaged or cut off"),
        (docker_archive([LAYER])[:700], "tar ends"),
        (docker_archive([LAYER], more={"Layers": ["gone"]}), "lacks 'gone'"),
        (docker_archive([LAYER], more={"Layers": []}), "0 layers, the configuration 1"),
        (docker_archive([LAYER], more={"Config": "../../c.json"}), "lacks"),
        (docker_archive([LAYER], config=[]), "not an object"),
        (docker_archive([LAYER], config={"Env": [1]}), "Env"),
        (docker_archive([LAYER], config={"Cmd": ["a\0b"]}), "Cmd"),
        (tar([("manifest.json", b"{")]), "not JSON"),
        (tar([("manifest.json", b"[" * 100_000)]), "not JSON"),
        (tar([("manifest.json", b"[1, 2]")]), "2 images"),
        (tar([("oci-layout", b""), ("index.json", b"[]")]), "not a JSON object"),
        (tar([("oci-layout", b""), ("index.json", b'{"manifests": [{"digest": "md5:1"}]}')]), "md5:1"),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words):
        inspect_image(path)


def test_a_manifest_with_another_hash_than_it_is_named_by_is_refused(tmp_path: Path) -> None:
    files = oci_blobs([LAYER])
    name = next(name for name, data in files.items() if b'"schemaVersion"' in data and name.startswith("blobs"))
    files[name] = files[name].replace(b'"schemaVersion": 2', b'"schemaVersion": 3')
    path = tmp_path / "image"
    path.write_bytes(tar(list(files.items())))
    with pytest.raises(ImageError, match="its manifest says"):
        inspect_image(path)


def test_of_many_platforms_ours_is_taken_and_attestations_are_passed_over(tmp_path: Path) -> None:
    files = oci_blobs([LAYER])
    index = json.loads(files["index.json"])
    ours = index["manifests"][0]
    index["manifests"] = [
        {"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}},
        {**ours, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": "sha256:" + "1" * 64, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    path = tmp_path / "image"
    path.write_bytes(tar([*(files | {"index.json": json.dumps(index).encode()}).items()]))
    assert inspect_image(path).config.cmd == ("/bin/sh",)


def test_an_image_for_another_system_is_refused(tmp_path: Path) -> None:
    config = json.loads(image_config([LAYER])) | {"os": "windows"}
    path = tmp_path / "image"
    manifest = json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()
    path.write_bytes(tar([("c", json.dumps(config).encode()), ("l", LAYER), ("manifest.json", manifest)]))
    with pytest.raises(ImageError, match="windows"):
        inspect_image(path)


def test_layers_that_occur_twice_may_be_links_and_links_in_circles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    manifest = json.dumps([{"Config": "c", "Layers": ["0/layer.tar", "1/layer.tar"]}]).encode()
    for target, good in (("../0/layer.tar", True), ("layer.tar", False), ("../../etc/passwd", False)):
        path.write_bytes(
            tar(
                [
                    ("c", image_config([LAYER, LAYER])),
                    ("0/layer.tar", LAYER),
                    (info("1/layer.tar", tarfile.SYMTYPE, link=target), b""),
                    ("manifest.json", manifest),
                ]
            )
        )
        if good:
            assert len(inspect_image(path).layers) == 2
        else:
            with pytest.raises(ImageError):
                inspect_image(path)


def test_a_compressed_bomb_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 2_000_000)
    path = tmp_path / "image"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(ImageError, match="larger than 2000000"):
        inspect_image(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damage_anywhere_is_an_image_error_or_harmless(tmp_path: Path, squashed: bytes, data: st.DataObject) -> None:
    wholes = (
        docker_archive([LAYER]),
        oci_archive([LAYER]),
        gvmi(squashed),
        gzip.compress(oci_archive([LAYER]), mtime=0),
    )
    whole = bytearray(data.draw(st.sampled_from(wholes)))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "image"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        inspect_image(path)
    except ImageError as exc:
        assert str(exc)


def test_a_digest_is_of_the_layer_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(oci_archive([LAYER], packed=False))
    assert inspect_image(path).layers[0].digest == f"sha256:{sha256(LAYER)}"
