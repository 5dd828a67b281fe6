"""When runtimes are tried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.runtimes.base import Probe
from golemp2p.runtimes.probed import Runtimes


async def test_what_works_is_tried_once_and_what_does_not_again_after_a_while(autojump_clock: MockClock) -> None:
    verdicts = [Probe(False, "no engine"), Probe(False, "no engine"), Probe(True), Probe(False, "never asked for")]
    tried: list[Probe] = []

    async def probe() -> Probe:
        tried.append(verdicts[len(tried)])
        return tried[-1]

    runtime: Any = SimpleNamespace(probe=probe)
    runtimes = Runtimes({"vm/docker": runtime})
    for expected in (1, 2, 3, 3, 3):
        for _ in range(3):
            await runtimes.probe("vm/docker")
        assert len(tried) == expected
        await trio.sleep(limits.PROBE_AGAIN_S)
    assert (await runtimes.probe("vm/docker")).works
