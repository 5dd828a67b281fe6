from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.unit.gsb.program import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()
