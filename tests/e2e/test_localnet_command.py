"""`golemp2p localnet`: exit codes, signals, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.net import GOLEMP2P, alive, environment, golemp2p, wait_until


def descendants(pid: int) -> set[int]:
    """Of a process, itself left out."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # gone meanwhile
    found: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer}
        found |= layer
    return found


def start(tmp: Path, *command: str) -> subprocess.Popen[str]:
    """In a process group of its own, with ``tmp`` for temporary files."""
    return subprocess.Popen(
        [*GOLEMP2P, "localnet", "--providers", "1", *command],
        env=environment(TMPDIR=str(tmp)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_exit_code_is_the_commands_and_its_background_jobs_end_too(tmp_path: Path) -> None:
    script = 'echo "$YAGNA_APPKEY $YAGNA_API_URL $YAGNA_SUBNET $YAGNA_PAYMENT_NETWORK"; sleep 1000 & echo $!; exit 7'
    done = golemp2p("localnet", "--providers", "1", "--", "sh", "-c", script, TMPDIR=str(tmp_path))
    assert done.returncode == 7, done.stderr
    settings, sleeper = done.stdout.splitlines()
    assert len(settings.split()) == 4
    assert not alive(int(sleeper))
    assert list(tmp_path.iterdir()) == []


def test_offers_are_in_the_subnet_that_is_asked_for(tmp_path: Path) -> None:
    script = 'echo "$YAGNA_SUBNET"; golemp2p offers --json'
    done = golemp2p("localnet", "--providers", "1", "--subnet", "goth", "--", "sh", "-c", script, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    subnet, offers = done.stdout.split("\n", 1)
    assert subnet == "goth"
    assert '"golem.node.debug.subnet": "goth"' in offers


def test_a_command_that_does_not_exist_is_said_before_a_network_is_started() -> None:
    started = time.monotonic()
    done = golemp2p("localnet", "--", "/no/such/program")
    assert done.returncode == 2
    assert "/no/such/program" in done.stderr
    assert "starting" not in done.stderr
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize("to_group", [True, False], ids=["as Ctrl-C does", "to golemp2p alone"])
@pytest.mark.parametrize(
    "command", [(), ("--", "sh", "-c", "echo running; sleep 1000; true")], ids=["no command", "command"]
)
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, to_group: bool, command: tuple[str, ...]) -> None:
    process = start(tmp_path, *command)
    assert process.stdout is not None
    process.stdout.readline()  # it is up
    children = descendants(process.pid)
    assert len(children) >= 3, "chain, requestor, provider"
    assert list(tmp_path.iterdir())
    if to_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert [pid for pid in children if alive(pid)] == []
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_until(lambda: len(descendants(process.pid)) >= 2, what="chain and requestor to be started")
    children = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert [pid for pid in children if alive(pid)] == []
    assert list(tmp_path.iterdir()) == []


def test_no_child_outlives_a_localnet_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "--", "sh", "-c", "echo running; exec sleep 1000")
    assert process.stdout is not None
    process.stdout.readline()
    children = descendants(process.pid)
    assert len(children) >= 4
    process.kill()
    process.communicate(timeout=20)
    wait_until(lambda: not any(alive(pid) for pid in children), what="the children to end", timeout_s=30.0)
