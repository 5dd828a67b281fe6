"""The foreign clients under test, installed as their users install them: `python -m tests.compat.clients`.

Each client gets an environment of its own below .compat/, so that it never sees golemp2p's packages. "pinned" is the
version that this repository was written against, "newest" what its registry offers today; where both are the same
version they share one installation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".compat"
PYTHON_PINNED = {"yapapi": "0.13.1", "golem-core": "0.7.8", "dapp-runner": "0.3.1"}
JS_PINNED = {
    "@golem-sdk/golem-js": "3.6.0",
    "@golem-sdk/cli": "2.11.0",  # its project templates are programs of the makers of golem-js
    "@golem-sdk/pino-logger": "1.1.0",
    "dotenv": "16.4.5",
    "tsx": "4.23.15",
    "playwright-core": "1.49.1",  # newer ones want node 20, Debian 12 has 18
}
JS_TRACKED = ("@golem-sdk/golem-js",)  # also tried in its newest version; the others only help
INSTALL_TIMEOUT_S = 600


@dataclass(frozen=True)
class PythonClient:
    """An environment with one client."""

    name: str
    version: str

    @property
    def directory(self) -> Path:
        return HOME / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def metadata(self) -> str:
        """What the package says of itself: its README."""
        (found,) = self.directory.glob(f"lib/python*/site-packages/{self.name.replace('-', '_')}-*.dist-info/METADATA")
        return found.read_text()


@dataclass(frozen=True)
class JsClient:
    """A project directory with golem-js in its node_modules."""

    version: str

    @property
    def directory(self) -> Path:
        return HOME / f"golem-js-{self.version}"

    @property
    def tsx(self) -> Path:
        return self.directory / "node_modules" / ".bin" / "tsx"

    def package(self, name: str) -> Path:
        return self.directory / "node_modules" / name


def python_client(name: str, track: str) -> PythonClient:
    return PythonClient(name, _versions()[name][track])


def js_client(track: str) -> JsClient:
    return JsClient(_versions()["@golem-sdk/golem-js"][track])


def tracks(*names: str) -> tuple[str, ...]:
    """The installations to try: "newest" only where it is another version for one of the clients ``names``."""
    path = HOME / "versions.json"
    known = json.loads(path.read_text()) if path.exists() else {}  # without them the tests say what is missing
    differ = any(len(set(known[name].values())) > 1 for name in names if name in known)
    return ("pinned", "newest") if differ else ("pinned",)


def _versions() -> dict[str, dict[str, str]]:
    """As :func:`main` found and installed them."""
    path = HOME / "versions.json"
    assert path.exists(), "the foreign clients are not installed: run scripts/setup compat"
    found: dict[str, dict[str, str]] = json.loads(path.read_text())
    return found


def main() -> None:
    """Install what is missing. Exits with the installer's words when something cannot be had."""
    HOME.mkdir(exist_ok=True)
    versions = {name: {"pinned": version, "newest": _newest_python(name)} for name, version in PYTHON_PINNED.items()}
    versions |= {name: {"pinned": JS_PINNED[name], "newest": _newest_js(name)} for name in JS_TRACKED}
    python = {PythonClient(name, v) for name in PYTHON_PINNED for v in versions[name].values()}
    js = {JsClient(v) for v in versions["@golem-sdk/golem-js"].values()}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_install_python, sorted(python, key=str)))
        list(pool.map(_install_js, sorted(js, key=str)))
    (HOME / "versions.json").write_text(json.dumps(versions, indent=2))
    print(json.dumps(versions))


def _newest_python(name: str) -> str:
    said = _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", name])
    found = re.match(rf"{re.escape(name)} \(([^)]+)\)", said)
    assert found, f"pip knows no version of {name}: {said[:300]}"
    return found[1]


def _newest_js(name: str) -> str:
    return _run(["npm", "view", name, "version"]).split()[-1]


def _install_python(client: PythonClient) -> None:
    done = client.directory / ".complete"
    if done.exists():
        return
    shutil.rmtree(client.directory, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(client.directory)])
    pip = [str(client.python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run([*pip, f"{client.name}=={client.version}"])
    done.touch()


def _install_js(client: JsClient) -> None:
    done = client.directory / ".complete"
    packages = JS_PINNED | {"@golem-sdk/golem-js": client.version}
    wanted = json.dumps({"private": True, "type": "module", "dependencies": packages})
    if done.exists() and done.read_text() == wanted:
        return
    client.directory.mkdir(exist_ok=True)
    (client.directory / "package.json").write_text(wanted)
    _run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=client.directory)
    done.write_text(wanted)


def _run(command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    program = shutil.which(command[0])
    if program is None:
        sys.exit(f"there is no {command[0]} here: run scripts/setup compat")
    done = subprocess.run(
        [program, *command[1:]],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
