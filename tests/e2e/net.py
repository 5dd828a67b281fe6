"""A running local network as the tests see it: nodes that can be killed and started again, and the chain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from golemp2p.client import NodeClient, connect
from golemp2p.core.payment.audit import Report, audit

START_TIMEOUT_S = 60.0
GOLEMP2P = [sys.executable, "-m", "golemp2p.cli.main"]


def environment(**more: str) -> dict[str, str]:
    """Without settings of the person who runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOLEMP2P_", "YAGNA_"))}
    if cache := os.environ.get("GOLEMP2P_CACHE_DIR"):
        clean["GOLEMP2P_CACHE_DIR"] = cache
    return {**clean, **more}


def golemp2p(*args: str, timeout_s: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*GOLEMP2P, *args], env=environment(**env), capture_output=True, text=True, timeout=timeout_s, check=False
    )


@dataclass
class NodeProcess:
    """One node of the network."""

    name: str
    data_dir: Path
    app_key: str
    again: subprocess.Popen[bytes] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data_dir / "running.json").read_text())
        return found

    @property
    def address(self) -> str:
        return str(self.facts["address"])

    @property
    def log(self) -> str:
        return (self.data_dir / "log").read_text(errors="replace")

    def client(self) -> AbstractAsyncContextManager[NodeClient]:
        return connect(str(self.facts["rest_url"]), self.app_key)

    def command(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`golemp2p ARGS` on this node."""
        return golemp2p(*args, GOLEMP2P_DATA_DIR=str(self.data_dir))

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        pid = int(self.facts["pid"])
        os.kill(pid, signal.SIGKILL)
        if self.again is not None:
            self.again.wait()
        wait_until(lambda: not alive(pid), what=f"{self.name} to be gone")
        (self.data_dir / "running.json").unlink()

    def start(self) -> None:
        """Again on the same data directory; returns when it is ready."""
        command = [*GOLEMP2P, "run", "--data-dir", str(self.data_dir)]
        if self.name != "requestor":
            command.append("--provider")
        with (self.data_dir / "log").open("ab") as file:
            self.again = subprocess.Popen(
                command,
                env=environment(GOLEMP2P_APPKEY=self.app_key),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        wait_until((self.data_dir / "running.json").exists, what=f"{self.name} to be ready")

    def stop(self) -> None:
        """What :meth:`start` started."""
        if self.again is not None and self.again.poll() is None:
            self.again.kill()
            self.again.wait()


@dataclass
class Net:
    directory: Path
    chain: dict[str, Any]
    requestor: NodeProcess
    providers: list[NodeProcess]
    env: Mapping[str, str] = field(default_factory=dict)

    def balance(self, address: str) -> int:
        """Of the test token, in its smallest units."""
        data = "0x70a08231" + address.removeprefix("0x").rjust(64, "0")
        return int(self.rpc("eth_call", {"to": self.chain["token"], "data": data}, "latest"), 16)

    def transfers(self) -> list[tuple[str, str, int]]:
        """All (from, to, amount) of the token so far, the faucet's minting left out."""
        topic = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"  # Transfer
        logs = self.rpc(
            "eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": self.chain["token"], "topics": [topic]}
        )
        found = [("0x" + e["topics"][1][-40:], "0x" + e["topics"][2][-40:], int(e["data"], 16)) for e in logs]
        return [line for line in found if int(line[0], 16)]

    def payments(self) -> list[tuple[str, str, int]]:
        """Those that reached a provider, from the requestor or through the contract that pays several at once."""
        payees = {provider.address for provider in self.providers}
        payers = {self.requestor.address, self.chain["batch"]}
        return [line for line in self.transfers() if line[0] in payers and line[1] in payees]

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self.chain["rpc_url"], json=body, trust_env=False).json()
        assert "result" in answer, answer
        return answer["result"]


@contextmanager
def open_net(directory: Path, **options: object) -> Iterator[Net]:
    """``options`` of LocalNetOptions."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.netprocess", str(directory), json.dumps(options)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    nodes: list[NodeProcess] = []
    try:
        assert process.stdout.readline() == b"up\n", "the network did not start"
        told = json.loads((directory / "localnet.json").read_text())
        nodes = [
            NodeProcess(n["name"], Path(n["data_dir"]), n["app_key"]) for n in (told["requestor"], *told["providers"])
        ]
        yield Net(directory, told["chain"], nodes[0], nodes[1:])
    finally:
        for node in nodes:
            node.stop()
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


def alive(pid: int) -> bool:
    """Running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, *, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)


def check_journal(node: NodeProcess, directory: Path) -> Report:
    """Export the node's journal while it runs: it must hold, and a changed copy must not."""
    file = directory / f"{node.name}-{time.monotonic_ns()}.jsonl"
    exported = node.command("audit", "export", str(file))
    assert exported.returncode == 0, exported.stderr
    lines = file.read_text().split("\n")[:-1]
    report = audit(lines)
    assert report.findings == ()
    before, found, after = lines[-1].rpartition('"signature":"')
    if found:  # the last entry is signed by the other side
        assert not audit([*lines[:-1], before + found + ("1" if after[0] == "0" else "0") + after[1:]]).ok
    assert not audit(lines[:-1]).ok
    return report
