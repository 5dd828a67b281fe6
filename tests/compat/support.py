"""Running other people's programs against a network of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.compat.clients import JsClient, PythonClient
from tests.e2e.net import Net

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
PROGRAM_TIMEOUT_S = 90.0

ALPINE = "golem/alpine:latest"
# What yapapi's and golem-core's examples ask for. The real images cannot be had offline: the network runs its test
# image instead, with the providers' setting package_substitutes, so the hash check is off for these.
HELLO_HASH = "d646d7b93083d817846c2ae5c62c72ca0507782385a2e29291a3d376"
BLENDER_HASH = "9a3b5d67b0b27746283cb5f287c13eab1beaa12d92a9f536b747c7ae"


def agent_env(net: Net, **more: str) -> dict[str, str]:
    """What a requestor agent finds its node by, and nothing of golemp2p's own Python."""
    told = json.loads((net.directory / "localnet.json").read_text())
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOLEMP2P_", "PYTHON", "VIRTUAL"))}
    return {**env, **told["env"], **more}


@dataclass
class Program:
    """A program of the user; its output goes into ``log``."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float = PROGRAM_TIMEOUT_S) -> str:
        """Its output. A failure or a delay fails the test, with what the program said."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s: {self.output[-4000:]}") from None
        assert code == 0, f"exit code {code}: {self.output[-4000:]}"
        return self.output

    def wait_for(self, text: str, timeout_s: float = PROGRAM_TIMEOUT_S) -> str:
        """Until ``text`` was printed."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self.process.poll() is None, f"ended before {text!r}: {self.output[-4000:]}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s:g} s: {self.output[-4000:]}"
            time.sleep(0.02)
        return self.output

    def kill(self) -> None:
        """With all that it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def started(command: Sequence[str | Path], env: Mapping[str, str], directory: Path) -> Iterator[Program]:
    """The program while it runs; killed at the end if it still does."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "output"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    program = Program(process, log)
    try:
        yield program
    finally:
        if process.poll() is None:
            program.kill()


def python(client: PythonClient, program: str | Path, *args: str) -> list[str | Path]:
    """``program``: a file, or the name of one of ours."""
    path = program if isinstance(program, Path) else PROGRAMS / "python" / program
    return [client.python, "-u", path, *args]


def javascript(client: JsClient, program: str | Path, *args: str) -> list[str | Path]:
    """``program``: a file, or the name of one of ours. Run beside node_modules, where its imports are looked up."""
    there = client.directory / "programs"
    if isinstance(program, Path):
        there = there / program.parent.name
        _copy(program, there / program.name)
        return [client.tsx, there / program.name, *args]
    for source in (PROGRAMS / "js").iterdir():
        _copy(source, there / source.name)
    return [client.tsx, there / program, *args]


def _copy(source: Path, target: Path) -> None:
    """Whole at every moment: other programs may be reading it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != source.read_bytes():
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_bytes(source.read_bytes())
        part.replace(target)


def run(command: Sequence[str | Path], env: Mapping[str, str], directory: Path, timeout_s: float = 90.0) -> str:
    """To its end; what it printed."""
    with started(command, env, directory) as program:
        return program.wait(timeout_s)
