"""A Docker engine of our own in a throw-away directory: `scripts/with-docker COMMAND …`, and the tests' fixtures.

It adds no bridge and touches neither the firewall nor sysctls. Needs root and Debian's docker.io (scripts/setup vm).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
INSTALL = "install it: apt-get install -y --no-install-recommends docker.io containerd runc (or run scripts/setup vm)"


class Engine:
    """One dockerd. ``directory`` must be short: a unix socket's path has at most 107 bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/s"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Ready on return. Raises RuntimeError that says what is wrong."""
        program = shutil.which("dockerd", path="/usr/sbin:/usr/bin:" + os.environ.get("PATH", ""))
        if program is None:
            raise RuntimeError(f"there is no dockerd on this machine; {INSTALL}")
        if os.geteuid() != 0:
            raise RuntimeError("dockerd needs root")
        here = self.directory
        command = [program, f"--data-root={here}/root", f"--exec-root={here}/exec", f"--pidfile={here}/pid"]
        command += ["-H", self.url, "--storage-driver=overlay2", "--iptables=false", "--ip6tables=false"]
        command += ["--ip-forward=false", "--bridge=none"]
        (here / "pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # A session of its own: a Ctrl-C that is meant for us must not stop it before what runs on it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text(errors="replace")[-1500:]
                self.kill()
                raise RuntimeError(f"dockerd did not start; its last words: {words}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        import docker

        try:
            client = docker.DockerClient(self.url, timeout=30)
        except docker.errors.DockerException:
            return False
        with contextlib.closing(client):
            try:
                return bool(client.ping())
            except (docker.errors.DockerException, OSError):
                return False

    def stop(self) -> None:
        """In order: its containers end with it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Started; gone afterwards with all its containers and images."""
    directory = Path(tempfile.mkdtemp(prefix="gd", dir="/tmp"))
    engine = Engine(directory)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        _remove(directory)


def _remove(directory: Path) -> None:
    """Mounts that a killed engine left are undone first."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run the command that is given with DOCKER_HOST set; its exit code is ours."""
    if len(sys.argv) < 2:
        print("usage: scripts/with-docker COMMAND …", file=sys.stderr)
        return 2
    try:
        with open_engine() as engine:
            command = subprocess.Popen(sys.argv[1:], env={**os.environ, "DOCKER_HOST": engine.url})
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda n, _frame: command.send_signal(n))
            return command.wait()
    except RuntimeError as exc:
        print(f"with-docker: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
