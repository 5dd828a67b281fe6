"""A runtime whose packages are shell scripts. Knows nothing of golemp2p: it speaks Golem's runtime CLI.

The script runs as the provider's own user without any isolation, so this is an example and no more. ``run`` becomes
the shell: ``sh PACKAGE ENTRYPOINT ARGUMENTS…`` in the directory that is the volume ``/golem/work``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

WORK = "/golem/work"


def main() -> None:
    parser = argparse.ArgumentParser(prog="golemp2p-runtime-shell")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--task-package", type=Path)
    parser.add_argument("--cpu-cores", type=int)
    parser.add_argument("--mem-gib", type=float)
    parser.add_argument("--storage-gib", type=float)
    parser.add_argument("--volume-override", type=json.loads, default={})
    parser.add_argument("--hostname")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("offer-template", "test", "deploy", "start"):
        commands.add_parser(name).add_argument("args", nargs="*")
    run = commands.add_parser("run")
    run.add_argument("--entrypoint", required=True)
    run.add_argument("args", nargs="*")
    given = parser.parse_args()
    match given.command:
        case "offer-template":
            properties = {"golem.runtime.capabilities": ["shell"], "golem.!exp.golemp2p.isolation": "none"}
            print(json.dumps({"properties": properties, "constraints": ""}))
        case "test":
            sys.exit(0 if shutil.which("sh") else "there is no sh")
        case "deploy":
            print(json.dumps(deploy(given.task_package, given.volume_override)))
        case "start":
            pass
        case "run":
            start(given.workdir, given.task_package, [given.entrypoint, *given.args])


def deploy(package: Path, override: dict[str, object]) -> dict[str, object]:
    with package.open("rb") as file:
        if file.read(2) != b"#!":
            return {"startMode": "empty", "valid": {"Err": "the package is no script"}, "vols": []}
    paths = dict.fromkeys((WORK, *override))
    volumes = [{"name": f"volume-{number}", "path": path} for number, path in enumerate(paths)]
    return {"startMode": "empty", "valid": {"Ok": ""}, "vols": volumes}


def start(workdir: Path, package: Path, args: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "LC_", "GOLEMP2P_WORK_DIR"))}
    # The requestor's variables must not become this process's: only the payload gets them.
    env = {**json.loads(os.environ.get("GOLEMP2P_ENV", "{}")), **env}
    os.chdir(workdir / "volume-0")
    os.execve("/bin/sh", ["sh", str(package), *args], env)
