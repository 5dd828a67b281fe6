"""anvil from npm: one checked binary in the user's cache, started without Node.

The package holds the ELF binary itself; ``npm pack`` downloads it and runs no install script. Its hash is pinned.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from golemp2p import limits
from golemp2p.errors import NetworkError, UsageError

VERSION: Final = "1.7.1"
# (system, machine) -> npm package, sha256 of package/bin/anvil
PACKAGES: Final = {
    ("linux", "x86_64"): (
        "@foundry-rs/anvil-linux-amd64",
        "10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b",
    ),
}


class AnvilMissingError(NetworkError):
    """anvil cannot be had here; the message says why."""

    code = "anvil_missing"


def install_anvil(cache: Path) -> Path:
    """The binary, from ``cache`` or fetched into it. Blocking (3 s the first time); two processes do it once.

    Raises AnvilMissingError, UsageError (a binary that is not the pinned one).
    """
    folder = cache / f"anvil-{VERSION}"
    binary = folder / "anvil"
    known = PACKAGES.get((sys.platform, platform.machine()))
    if known is None:
        raise AnvilMissingError(f"no anvil is pinned for {sys.platform} on {platform.machine()}")
    package, sha256 = known
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not binary.exists():
            _fetch(package, binary)
        if (found := hashlib.sha256(binary.read_bytes()).hexdigest()) != sha256:
            binary.unlink()
            raise UsageError(
                f"anvil has sha256 {found}, not {sha256}: it was removed", hint="try again, or find out who changed it"
            )
    return binary


def _fetch(package: str, binary: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise AnvilMissingError("npm is not installed, so anvil cannot be fetched")
    with tempfile.TemporaryDirectory(dir=binary.parent) as temporary:
        try:
            subprocess.run(
                [npm, "pack", "--silent", f"{package}@{VERSION}"],
                cwd=temporary,
                check=True,
                capture_output=True,
                timeout=limits.ANVIL_FETCH_TIMEOUT_S,
            )
            (archive,) = Path(temporary).glob("*.tgz")
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/bin/anvil")
                if member is None:
                    raise AnvilMissingError(f"{package} {VERSION} holds no anvil")
                part = Path(temporary) / "anvil"
                with part.open("wb") as file:
                    shutil.copyfileobj(member, file)
        except (subprocess.SubprocessError, OSError, ValueError, KeyError, tarfile.TarError) as exc:
            raise AnvilMissingError(f"npm could not fetch {package} {VERSION} ({type(exc).__name__})") from exc
        part.chmod(0o755)
        part.rename(binary)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel frees it when that process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def anvil_command(binary: Path, *, port: int, chain_id: int, block_time_s: float | None) -> list[str]:
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)]
    # One slot an epoch: "finalized" is two blocks behind the head, so tests need not wait. cancun: as the contracts.
    command += ["--hardfork", "prague", "--accounts", "1", "--slots-in-an-epoch", "1", "--silent"]
    if block_time_s is not None:
        command += ["--block-time", f"{block_time_s:g}"]
    return command
