"""How the end of a worker is put into words."""

from __future__ import annotations

import signal

import pytest

from golemp2p.runtimes.base import EndReason
from golemp2p.runtimes.process import ChildExit
from golemp2p.runtimes.wasm.guest import first_lines
from golemp2p.runtimes.wasm.verdict import judge_death


@pytest.mark.parametrize(
    ("status", "code", "reason", "words"),
    [
        (-signal.SIGXCPU, 152, EndReason.CPU_LIMIT, "2 CPU seconds"),
        (-signal.SIGKILL, 137, EndReason.KILLED, "from outside"),
        (-signal.SIGSEGV, 139, EndReason.TRAP, "SIGSEGV"),
        (-signal.SIGABRT, 134, EndReason.TRAP, "SIGABRT"),
        (1, 134, EndReason.TRAP, "status 1"),
    ],
)
def test_a_worker_that_died_without_a_word(status: int, code: int, reason: EndReason, words: str) -> None:
    verdict = judge_death(ChildExit(status, 1.0), 2.0)
    assert (verdict.code, verdict.reason) == (code, reason)
    assert words in verdict.message


def test_wasmtimes_words_without_the_backtrace() -> None:
    trap = Exception(
        "error while executing at wasm backtrace:\n    0: 0x3e - <unknown>!f\n\nCaused by:\n    wasm trap: unreachable"
    )
    assert first_lines(trap) == "wasm trap: unreachable"
    wrapped = Exception(
        "failed to instantiate\n\nCaused by:\n    memory minimum size of 8192 pages exceeds memory limits"
    )
    assert first_lines(wrapped) == "failed to instantiate; memory minimum size of 8192 pages exceeds memory limits"
    assert first_lines(Exception("plain")) == "plain"
