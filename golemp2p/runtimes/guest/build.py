"""The agent's executable: compiled here, once per source, since no package ships it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError

SOURCE: Final = Path(__file__).with_name("agent.c")
_FLAGS: Final = ("-static", "-O2", "-s", "-Wall")
_COMPILERS: Final = ("musl-gcc", "cc", "gcc")  # musl's start is the smaller and faster one


def agent_binary(cache_dir: Path) -> Path:
    """A static executable of agent.c in ``cache_dir``. Blocks (1 s the first time). Raises RuntimeFailureError."""
    source = b"\0".join(path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]")))
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    target = cache_dir / f"agent-{hashlib.sha256(source).hexdigest()[:16]}"
    if target.exists():
        return target
    if compiler is None:
        raise RuntimeFailureError(
            "there is no C compiler for the guest agent", hint="apt-get install -y musl-tools gcc (or cc, statically)"
        )
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(compiler, target)
    return target


def _compile(compiler: str, target: Path) -> None:
    descriptor, part = tempfile.mkstemp(dir=target.parent, prefix=".agent-")
    os.close(descriptor)
    try:
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", part, str(SOURCE)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limits.AGENT_COMPILE_S,
            check=False,
        )
        if done.returncode != 0:
            tail = done.stderr.decode(errors="replace").strip()[-500:]
            raise RuntimeFailureError(
                f"{compiler} cannot compile the guest agent: {tail}", hint="apt-get install -y musl-tools gcc libc6-dev"
            )
        Path(part).chmod(0o755)
        Path(part).replace(target)
    except subprocess.TimeoutExpired:
        raise RuntimeFailureError(f"compiling the guest agent took longer than {limits.AGENT_COMPILE_S:g} s") from None
    finally:
        Path(part).unlink(missing_ok=True)
