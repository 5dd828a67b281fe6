"""Encrypted key files, Ethereum keystore V3 (Web3 Secret Storage), as geth and MetaMask read and write them.

scrypt n=262144 takes about 0.9 s of one core: call from a worker thread.
"""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path
from typing import Any, Final

from golemp2p.errors import UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.recursion import recursion_limit_kept

SCRYPT_N: Final = 262_144
SCRYPT_N_LIGHT: Final = 4_096  # geth's --lightkdf, for throw-away test keys
MAX_KEYSTORE_BYTES: Final = 64 * 1024
MAX_KDF_MEMORY_BYTES: Final = 1024 * 1024 * 1024  # geth's standard takes 256 MiB


class WrongPasswordError(UsageError):
    """The password does not open this keystore."""

    code = "wrong_password"


def create_keystore(path: Path, key: NodeKey, password: str, *, light: bool = False) -> None:
    """Write ``key`` to ``path`` (mode 0600, atomically, never over an existing file)."""
    with recursion_limit_kept():
        import eth_keyfile  # 0.4 s

    if path.exists():
        raise UsageError(f"{path} exists already", hint="remove it yourself if you are sure: it holds a key")
    content = eth_keyfile.create_keyfile_json(
        key.secret, password.encode(), kdf="scrypt", iterations=SCRYPT_N_LIGHT if light else SCRYPT_N
    )
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(part)  # a rename would replace what somebody else has just made
        part.unlink()
    except FileExistsError as exc:
        raise UsageError(f"{path} exists already", hint="remove it yourself if you are sure: it holds a key") from exc
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc


def unlock_keystore(path: Path, password: str) -> NodeKey:
    """The key in ``path``. Raises WrongPasswordError, UsageError."""
    content = _read(path)
    try:
        secret = _decode_scrypt(content, password.encode())
        if secret is None:
            with recursion_limit_kept():
                import eth_keyfile  # 0.4 s, for py_ecc, which is why the usual case does without it

            secret = eth_keyfile.decode_keyfile_json(content, password.encode())
    except ValueError as exc:
        if "MAC mismatch" in str(exc):
            raise WrongPasswordError(
                f"wrong password for {path}",
                hint="check the password file, GOLEMP2P_PASSWORD or what you typed",
            ) from exc
        raise UsageError(f"{path} is no keystore V3 file: {exc}") from exc
    except (KeyError, TypeError, AttributeError, ArithmeticError, MemoryError, NotImplementedError) as exc:
        raise UsageError(f"{path} is no keystore V3 file: {type(exc).__name__} {exc}") from exc
    return NodeKey(secret)


def _decode_scrypt(content: dict[str, Any], password: bytes) -> bytes | None:
    """The secret of a V3 file with scrypt and AES-128-CTR; None when it is of another kind.

    OpenSSL's scrypt lets go of the GIL, so that a node imports its modules meanwhile. Raises ValueError ("MAC
    mismatch", as eth_keyfile), KeyError, TypeError.
    """
    crypto = content.get("crypto", content.get("Crypto"))
    if content.get("version") != 3 or not isinstance(crypto, dict):
        return None
    if crypto.get("kdf") != "scrypt" or crypto.get("cipher") != "aes-128-ctr":
        return None
    import hashlib

    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from golemp2p.core.eip712 import keccak256

    parameters = crypto["kdfparams"]
    n, r, p, size_bytes = (int(parameters[name]) for name in ("n", "r", "p", "dklen"))
    if 128 * n * r > MAX_KDF_MEMORY_BYTES or size_bytes < 32:
        raise ValueError(f"its key derivation wants {128 * n * r} bytes of memory (n={n}, r={r})")
    try:
        derived = hashlib.scrypt(
            password,
            salt=bytes.fromhex(parameters["salt"]),
            n=n,
            r=r,
            p=p,
            dklen=size_bytes,
            maxmem=MAX_KDF_MEMORY_BYTES + 64 * 1024 * 1024,
        )
    except ValueError:
        return None  # parameters that OpenSSL does not take
    ciphertext = bytes.fromhex(crypto["ciphertext"])
    if not hmac.compare_digest(keccak256(derived[16:32] + ciphertext), bytes.fromhex(crypto["mac"])):
        raise ValueError("MAC mismatch")
    iv = bytes.fromhex(crypto["cipherparams"]["iv"])
    return Cipher(algorithms.AES(derived[:16]), modes.CTR(iv)).decryptor().update(ciphertext)


def keystore_address(path: Path) -> str:
    """The address that the file claims (lower case, 0x…), without unlocking."""
    return "0x" + str(_read(path).get("address", "")).removeprefix("0x").lower()


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_KEYSTORE_BYTES:
            raise UsageError(f"{path} is too large for a keystore")
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"no key at {path}", hint="make one with: golemp2p init") from None
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path} is no keystore V3 file: {exc}") from exc
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no keystore V3 file: not a JSON object")
    return content
