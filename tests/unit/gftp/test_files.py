"""Published files are read while they are what they were; received ones appear when they are complete."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from golemp2p.errors import UsageError
from golemp2p.gftp.files import FileFault, KnownDigests, Published, Receiving

BYTES = os.urandom(2_500_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    return path


def chunk(offset: int, content: bytes) -> dict[str, Any]:
    return {"chunk": {"offset": offset, "content": content}}


def finished(content: bytes) -> dict[str, Any]:
    return {"hash": hashlib.sha3_256(content).hexdigest()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_published_file_is_read_even_when_it_is_removed(file: Path) -> None:
    published = Published(file)
    assert published.sha3_256 == hashlib.sha3_256(BYTES).hexdigest()
    file.unlink()
    assert published.answer("GetMetadata", {}) == {"fileSize": len(BYTES)}
    assert published.answer("GetChunk", {"offset": 7, "size": 5}) == {"offset": 7, "content": BYTES[7:12]}
    assert published.answer("GetChunk", {"offset": len(BYTES), "size": 5}) == {"offset": len(BYTES), "content": b""}
    published.close()


def test_a_file_that_was_changed_is_not_read_any_more(file: Path) -> None:
    published = Published(file)
    with file.open("ab") as more:
        more.write(b"more")
    for component in ("GetMetadata", "GetChunk"):
        with pytest.raises(FileFault, match="changed"):
            published.answer(component, {"offset": 0, "size": 5})
    published.close()


def test_a_file_that_is_published_again_is_not_hashed_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: KnownDigests = {}
    Published(file, known).close()
    assert not known  # it was written just now: it may change within one tick of the clock
    os.utime(file, (1, 1))
    Published(file, known).close()
    monkeypatch.setattr(Published, "_hash", lambda _: pytest.fail("hashed again"))
    Published(file, known).close()
    monkeypatch.undo()
    file.write_bytes(b"other")
    os.utime(file, (1, 1))
    published = Published(file, known)
    assert published.sha3_256 == hashlib.sha3_256(b"other").hexdigest()
    published.close()


@pytest.mark.parametrize(
    "payload", [{}, {"offset": -1, "size": 5}, {"offset": "a", "size": 5}, {"offset": 10**9, "size": 1}], ids=str
)
def test_a_wrong_question_is_the_nodes_fault(file: Path, payload: dict[str, Any]) -> None:
    published = Published(file)
    with pytest.raises(FileFault):
        published.answer("GetChunk", payload)
    with pytest.raises(FileFault):
        published.answer("UploadChunk", chunk(0, b"x"))
    published.close()


def test_only_files_are_published(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UsageError):
            Published(path)


def test_a_received_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    receiving = Receiving(target)
    assert names(target.parent) == []
    receiving.answer("UploadChunk", chunk(0, b"abc"))
    assert not target.exists()
    receiving.answer("UploadChunk", chunk(3, b"def"))
    assert receiving.answer("UploadFinished", finished(b"abcdef")) is None
    assert target.read_bytes() == b"abcdef"
    assert names(target.parent) == ["file"]
    receiving.close()


def test_what_was_there_stays_until_then_and_keeps_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    receiving = Receiving(link)
    receiving.answer("UploadChunk", chunk(0, b"after"))
    assert target.read_bytes() == b"before"
    receiving.answer("UploadFinished", finished(b"after"))
    assert target.read_bytes() == b"after"
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    receiving = Receiving(target)
    receiving.answer("UploadChunk", chunk(0, b"abc"))
    with pytest.raises(FileFault, match="sha3-256") as caught:
        receiving.answer("UploadFinished", finished(b"other"))
    assert caught.value.name == "IntegrityError"
    assert names(tmp_path) == []


def test_an_upload_that_is_begun_anew_replaces_the_old_beginning(tmp_path: Path) -> None:
    target = tmp_path / "file"
    receiving = Receiving(target)
    receiving.answer("UploadChunk", chunk(0, b"wrong"))
    receiving.answer("UploadChunk", chunk(0, b"abc"))
    receiving.answer("UploadFinished", finished(b"abc"))
    assert target.read_bytes() == b"abc"
    receiving.answer("UploadChunk", chunk(0, b"again"))  # the same URL may be used twice
    receiving.answer("UploadFinished", {"hash": None})
    assert target.read_bytes() == b"again"


def test_an_empty_file_comes_without_chunks(tmp_path: Path) -> None:
    Receiving(tmp_path / "file").answer("UploadFinished", finished(b""))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("offset", [2, 4, 100])
def test_chunks_come_in_order(tmp_path: Path, offset: int) -> None:
    receiving = Receiving(tmp_path / "file")
    receiving.answer("UploadChunk", chunk(0, b"abc"))
    with pytest.raises(FileFault, match="does not follow"):
        receiving.answer("UploadChunk", chunk(offset, b"def"))
    receiving.close()
    assert names(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    receiving = Receiving(tmp_path / "file")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FileFault, match="No space left") as caught:
        receiving.answer("UploadChunk", chunk(0, b"abc"))
    assert caught.value.name == "WriteError"
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(UsageError):
            Receiving(path)


def test_what_is_no_file_is_written_in_place(tmp_path: Path) -> None:
    receiving = Receiving(Path("/dev/null"))
    receiving.answer("UploadChunk", chunk(0, b"abc"))
    receiving.answer("UploadFinished", finished(b"abc"))
    assert Path("/dev/null").is_char_device()
