"""A runtime for packages that begin with ``#!echo``: every command prints its arguments and variables, one a line.

No payload code runs, so there is nothing to isolate. The entry point of a command chooses what it does: ``out`` and
``err`` say the arguments, ``exit`` ends with a number, ``count`` goes on for ever, anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from golemp2p.runtimes.base import (
    Deployment,
    EndReason,
    ExitStatus,
    OutputSink,
    Probe,
    RuntimeFailureError,
    Usage,
)
from golemp2p.runtimes.custom import RuntimeContext
from golemp2p.runtimes.hostfiles import HostFiles

WORK = "/golem/work"


def make(context: RuntimeContext) -> EchoRuntime:
    """The entry point. ``settings``: ``greeting``, said first."""
    greeting = context.settings.get("greeting", "")
    if not isinstance(greeting, str):
        raise TypeError("greeting is no text")
    return EchoRuntime(context.name, greeting)


class EchoRuntime:
    version = "0.1.0"

    def __init__(self, name: str, greeting: str) -> None:
        self.id = self.name = name
        self._greeting = greeting

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        return {
            "golem.runtime.name": self.name,
            "golem.runtime.version": self.version,
            "golem.runtime.capabilities": ["echo"],
            "golem.!exp.golemp2p.isolation": "none",
        }

    async def probe(self) -> Probe:
        return Probe(True)

    async def clean_up(self) -> None:
        """Nothing outlives the node."""

    async def deploy(self, deployment: Deployment) -> EchoInstance:
        if deployment.deterministic:
            raise RuntimeFailureError("there is no deterministic echo")
        with deployment.package.open("rb") as file:
            if not file.read(100).startswith(b"#!echo"):
                raise RuntimeFailureError("the package does not begin with #!echo")
        volumes = {}
        for number, path in enumerate(dict.fromkeys((WORK, *deployment.volumes))):
            volumes[path] = deployment.work_dir / str(number)
            volumes[path].mkdir()
        return EchoInstance(deployment, HostFiles(volumes), self._greeting)


class EchoInstance:
    def __init__(self, deployment: Deployment, files: HostFiles, greeting: str) -> None:
        self.files = files
        self._deployment = deployment
        self._greeting = greeting

    @property
    def disk(self) -> Sequence[Path]:
        return (self._deployment.work_dir,)

    async def start(self, args: Sequence[str]) -> None:
        """Nothing to boot."""

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        wall_s = self._deployment.limits.wall_s
        with trio.move_on_after(float("inf") if wall_s is None else wall_s):
            return await self._run(entry_point, args, output)
        return ExitStatus(124, EndReason.WALL_LIMIT, f"stopped after {wall_s:g} s, the limit of one command")

    async def _run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        variables = [f"{name}={value}" for name, value in self._deployment.env.items()]
        lines = [*filter(None, [self._greeting]), *args, *variables]
        match entry_point:
            case "out" | "err":
                await output(f"std{entry_point}", "".join(f"{line}\n" for line in lines).encode())
            case "both":
                await output("stdout", f"{args[0]}\n".encode())
                await output("stderr", f"{args[1]}\n".encode())
            case "exit":
                return ExitStatus(int(args[0]))
            case "count":
                number = 0
                while True:
                    await output("stdout", f"{number}\n".encode() if not args else f"{args[0]}\n".encode())
                    number += 1
                    await trio.sleep(60 if args else 0)
            case _:
                raise RuntimeFailureError(f"there is no command {entry_point[:40]!r}")
        return ExitStatus(0)

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        raise RuntimeFailureError(f"nothing listens on port {port}")

    async def lost(self) -> str:
        return await trio.sleep_forever()

    def usage(self) -> Usage:
        return Usage()

    async def terminate(self) -> None:
        """The work directory is removed by the node."""
