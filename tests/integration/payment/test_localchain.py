"""Local chains: the pinned binary, and no process left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import trio

from golemp2p.errors import UsageError
from golemp2p.localchain import anvil, open_local_chain

_PARENT = """
import os, sys, trio
from golemp2p.localchain import open_local_chain
async def main():
    async with open_local_chain(prefer="anvil") as chain:
        import psutil
        print(psutil.Process().children(recursive=True)[0].pid, flush=True)
        sys.stdin.read()
trio.run(main)
"""


async def test_the_chain_dies_with_a_killed_parent() -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - the parent-to-be
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(await trio.to_thread.run_sync(parent.stdout.readline)))
        parent.kill()
        parent.wait()
        gone, _ = psutil.wait_procs([child], timeout=30)
        # As an orphan it may stay a zombie until its adopter reaps it.
        assert gone or child.status() == psutil.STATUS_ZOMBIE


async def test_nothing_is_left_when_the_chain_is_closed() -> None:
    before = psutil.Process().children(recursive=True)
    async with open_local_chain(prefer="anvil") as chain:
        children = [c for c in psutil.Process().children(recursive=True) if c not in before]
        assert any(c.name() == "anvil" for c in children)
        assert await chain.call("eth_chainId") == hex(chain.chain_id)
    assert not any(c.is_running() and c.name() == "anvil" for c in children)


async def test_a_changed_binary_is_refused_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / f"anvil-{anvil.VERSION}"
    folder.mkdir()
    (folder / "anvil").write_bytes(b"not anvil")
    with pytest.raises(UsageError, match="anvil has sha256"):
        anvil.install_anvil(tmp_path)
    assert not (folder / "anvil").exists()


async def test_without_npm_the_embedded_chain_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with open_local_chain(cache_dir=tmp_path) as chain:
        assert chain.kind == "embedded"
    assert "npm is not installed, so anvil cannot be fetched; using the embedded chain" in capsys.readouterr().err
