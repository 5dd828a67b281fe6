"""Real nodes in a lab of network namespaces (scripts/netlab): a small internet with NAT, to be cut and changed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli_w

from golemp2p.identity import NodeKey, create_keystore
from tests.e2e.net import GOLEMP2P, environment

NETLAB: Final = Path(__file__).parent.parent / "scripts" / "netlab"
WAIT_S: Final = 90.0  # for anything; CI has two busy cores
CHAIN_PORT: Final = 8545
NODE_PORT: Final = 11_155


@dataclass
class LabNode:
    """A node in the namespace of ``host``."""

    lab: Lab
    host: str
    directory: Path
    app_key: str
    process: subprocess.Popen[bytes]

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "running.json").read_text())
        return found

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def command(self, *args: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
        """`golemp2p ARGS`, beside this node."""
        env = environment(GOLEMP2P_DATA_DIR=str(self.directory), YAGNA_PAYMENT_NETWORK="local")
        return self.lab.inside(self.host, *GOLEMP2P, *args, env=env, timeout_s=timeout_s)

    def json(self, *args: str) -> Any:
        done = self.command(*args, "--json")
        assert done.returncode == 0, f"{args}: {done.stderr}\n{self.log[-3000:]}"
        return json.loads(done.stdout)

    def peer(self, other: LabNode) -> dict[str, Any]:
        """What this node knows of ``other``; empty for nothing."""
        found = [p for p in self.json("peers") if p["peerId"] == other.facts["peer_id"]]
        return found[0] if found else {}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@dataclass
class Lab:
    name: str
    directory: Path
    nodes: list[LabNode] = field(default_factory=list)
    bootstrap: list[str] = field(default_factory=list)
    network: str = ""
    chain: subprocess.Popen[str] | None = None
    payment: dict[str, Any] = field(default_factory=dict)

    def netlab(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, str(NETLAB), "--lab", self.name, *args],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"netlab {args}: {done.stderr}"
        return done.stdout.strip()

    def inside(
        self, host: str, *command: str, env: dict[str, str] | None = None, timeout_s: float = WAIT_S
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", f"{self.name}-{host}", *command],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start_chain(self, *hosts: str) -> None:
        """A chain that ``hosts`` reach, whatever happens to the lab's internet."""
        spaces = [f"{self.name}-{host}" for host in hosts]
        self.chain = subprocess.Popen(
            [sys.executable, "-m", "tests.netchain", str(CHAIN_PORT), *spaces],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.chain.stdout is not None
        line = self.chain.stdout.readline()
        assert line, "the chain did not start"
        self.payment = {"networks": [json.loads(line)]}

    def faucet(self, address: str) -> None:
        assert self.chain is not None
        assert self.chain.stdin is not None
        assert self.chain.stdout is not None
        self.chain.stdin.write(address + "\n")
        self.chain.stdin.flush()
        assert self.chain.stdout.readline() == "ok\n"

    def start(self, host: str, *args: str, money: bool = False, provider: dict[str, object] | None = None) -> LabNode:
        """`golemp2p ARGS` in ``host``; not yet ready on return. ``provider``: further settings of that section."""
        where = self.directory / host
        where.mkdir(mode=0o700)
        key, password, app_key = NodeKey.generate(), secrets.token_urlsafe(16), secrets.token_hex(16)
        create_keystore(where / "key.json", key, password, light=True)
        (where / "password").touch(mode=0o600)
        (where / "password").write_text(password)
        if money:
            self.faucet(key.address)
        settings = {
            "version": 1,
            "net": {
                "network": self.network,
                "listen": [f"/ip4/0.0.0.0/tcp/{NODE_PORT}"],
                "bootstrap": self.bootstrap,
            },
            "rest": {"listen": "127.0.0.1:7465"},
            "payment": {**self.payment, "auto_accept_after_s": 1.0},
            "provider": {"node_name": host, "memory_gib": 0.25, "price_start": 0.001, **(provider or {})},
            "log": {"format": "json"},
        }
        (where / "config.toml").touch(mode=0o600)
        (where / "config.toml").write_text(tomli_w.dumps(settings))
        with (where / "log").open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.name}-{host}", *GOLEMP2P, *args, "--data-dir", str(where)],
                env=environment(GOLEMP2P_APPKEY=app_key),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        node = LabNode(self, host, where, app_key, process)
        self.nodes.append(node)
        return node

    def ready(self, *nodes: LabNode) -> None:
        for node in nodes:
            path = node.directory / "running.json"
            until(lambda p=path, n=node: p.exists() or n.process.poll() is not None, f"{node.host} to be ready")  # type: ignore[misc]
            assert node.process.poll() is None, node.log[-3000:]


@contextmanager
def open_lab(directory: Path, specs: Sequence[str]) -> Iterator[Lab]:
    """``specs``: as of `netlab up`. Fails when a tool is missing; needs root."""
    name = f"t{os.getpid()}"
    lab = Lab(name, directory, network=f"lab-{secrets.token_hex(4)}")
    try:
        lab.netlab("up", *specs)
        yield lab
    finally:
        for node in lab.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.process.terminate()
        for node in lab.nodes:
            node.stop()
        if lab.chain is not None:
            for pipe in (lab.chain.stdin, lab.chain.stdout):
                if pipe is not None:
                    pipe.close()
            lab.chain.wait(20)
        lab.netlab("down")


def until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.2)
