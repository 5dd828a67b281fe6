from __future__ import annotations

import contextlib
import json
import stat
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p.errors import UsageError
from golemp2p.identity import NodeKey, create_keystore, unlock_keystore
from golemp2p.identity.keystore import WrongPasswordError, keystore_address

KEY = NodeKey(b"\x07" * 32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keystore") / "key.json"
    create_keystore(path, KEY, "pässword", light=True)
    return path


def test_the_key_comes_back_and_only_the_owner_can_read_the_file(stored: Path) -> None:
    assert unlock_keystore(stored, "pässword").secret == KEY.secret
    assert keystore_address(stored) == KEY.address
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert list(stored.parent.iterdir()) == [stored]


@pytest.mark.parametrize("password", ["", "password", "pässword "])
def test_a_wrong_password_is_called_so(stored: Path, password: str) -> None:
    with pytest.raises(WrongPasswordError, match="wrong password"):
        unlock_keystore(stored, password)


def test_eth_account_reads_ours_and_we_read_theirs(stored: Path, tmp_path: Path) -> None:
    assert Account.decrypt(json.loads(stored.read_text()), "pässword") == KEY.secret
    for kdf, rounds in (("scrypt", 2), ("pbkdf2", 10)):
        path = tmp_path / f"{kdf}.json"
        path.write_text(json.dumps(Account.encrypt(KEY.secret, "other", kdf=kdf, iterations=rounds)))
        assert unlock_keystore(path, "other").secret == KEY.secret
        with pytest.raises(WrongPasswordError):
            unlock_keystore(path, "wrong")


def test_a_key_is_never_written_over(stored: Path) -> None:
    before = stored.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        create_keystore(stored, NodeKey.generate(), "x", light=True)
    assert stored.read_bytes() == before


def test_a_key_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.json"
    path.write_text("somebody's key")
    monkeypatch.setattr(Path, "exists", lambda _self: False)
    with pytest.raises(UsageError, match="exists already"):
        create_keystore(path, KEY, "x", light=True)
    assert path.read_text() == "somebody's key"


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="golemp2p init"):
        unlock_keystore(tmp_path / "none.json", "x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b"[" * 20_000,
        b'{"version": 3, "crypto": {}}',
        b'{"version": 3, "crypto": []}',
        b'{"version": 3, "crypto": {"kdf": "scrypt", "cipher": "aes-128-ctr", "kdfparams": []}}',
        b'{"version": 1}',
        b"x" * 100_000,
    ],
)
def test_a_file_that_is_no_keystore_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"keystore"):
        unlock_keystore(path, "x")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        unlock_keystore(tmp_path, "x")


@given(
    st.sampled_from(["n", "r", "p", "dklen", "salt", "ciphertext", "mac", "iv", "kdf", "cipher", "version"]),
    st.sampled_from([None, -1, 0, 1, 3, 2**70, 1e400, "zz", "", [], {}, "00"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_keystore_with_an_odd_field_is_refused_or_opens(
    stored: Path, tmp_path: Path, field: str, value: object
) -> None:
    content = json.loads(stored.read_text())
    crypto = content["crypto"]
    for holder in (content, crypto, crypto["kdfparams"], crypto["cipherparams"]):
        if field in holder:
            holder[field] = value
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(UsageError):
        unlock_keystore(path, "pässword")


@pytest.mark.parametrize("secret", [b"", b"\0" * 32, b"\xff" * 32, b"\x01" * 33])
def test_what_is_no_private_key_is_refused(secret: bytes) -> None:
    with pytest.raises(UsageError, match="private key"):
        NodeKey(secret)
