"""Market nodes with the REST app in front, called in process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi import APIRouter

from golemp2p.api import market as market_api
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.net.memory import MemoryHub
from tests.unit.market.conftest import Node, open_node

PAGE = "https://app.example"


@dataclass
class RestNode:
    node: Node
    http: httpx.AsyncClient


@asynccontextmanager
async def open_rest(
    hub: MemoryHub, more: Callable[[Node], Sequence[APIRouter]] = lambda _node: ()
) -> AsyncIterator[RestNode]:
    """``more``: routers beside the market's."""
    async with open_node(hub) as node:
        keys = AppKeys([AppKey("plain", "secret-1"), AppKey("browser", "secret-2", (PAGE,))])
        app = make_app([market_api.make_router(node.market), *more(node)], keys=keys, address=node.key.address)
        transport = httpx.ASGITransport(app=app)
        headers = {"authorization": "Bearer secret-1"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7465", headers=headers) as http:
            yield RestNode(node, http)


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub(latency_s=0.01)
