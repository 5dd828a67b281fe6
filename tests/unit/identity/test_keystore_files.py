"""Key files of other programs open too, and hostile ones do not eat the memory."""

from __future__ import annotations

import json
from pathlib import Path

import eth_keyfile
import pytest

from golemp2p.errors import UsageError
from golemp2p.identity import NodeKey, unlock_keystore
from golemp2p.identity.keystore import WrongPasswordError

KEY = NodeKey.generate()


@pytest.mark.parametrize(("kdf", "iterations"), [("scrypt", 2), ("scrypt", 4096), ("pbkdf2", 2)])
def test_a_file_made_by_eth_keyfile_opens_with_its_password_alone(tmp_path: Path, kdf: str, iterations: int) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(eth_keyfile.create_keyfile_json(KEY.secret, b"pass", kdf=kdf, iterations=iterations)))
    assert unlock_keystore(path, "pass").secret == KEY.secret
    with pytest.raises(WrongPasswordError):
        unlock_keystore(path, "other")


@pytest.mark.parametrize("change", [{"n": 2**40}, {"r": 2**30}, {"dklen": 1}, {"salt": "zz"}, {"n": "many"}])
def test_a_file_with_impossible_parameters_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    content = eth_keyfile.create_keyfile_json(KEY.secret, b"pass", kdf="scrypt", iterations=2)
    content["crypto"]["kdfparams"].update(change)
    path = tmp_path / "key.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError):
        unlock_keystore(path, "pass")
