"""The provider agent beside the node."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from golemp2p import limits
from golemp2p.cli.run import keep_running


async def test_an_agent_that_fails_is_started_again_with_growing_waits(autojump_clock: trio.testing.MockClock) -> None:
    starts: list[float] = []

    async def agent() -> None:
        starts.append(trio.current_time())
        if len(starts) < 5:
            raise ExceptionGroup("nursery", [ValueError("a bug")])

    await keep_running(agent)
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert waits == pytest.approx([limits.AGENT_RETRY_S * factor for factor in (1, 2, 4, 8)])


async def test_after_a_long_good_time_the_waits_begin_anew(autojump_clock: trio.testing.MockClock) -> None:
    starts: list[float] = []

    async def agent() -> None:
        starts.append(trio.current_time())
        if len(starts) == 4:
            await trio.sleep(limits.AGENT_STEADY_S + 1)
        if len(starts) < 6:
            raise OverflowError

    await keep_running(agent)
    assert starts[4] - starts[3] == pytest.approx(limits.AGENT_STEADY_S + 1 + limits.AGENT_RETRY_S)


async def test_cancelling_ends_the_agent_for_good(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(5) as scope:
        await keep_running(trio.sleep_forever)
    assert scope.cancelled_caught
