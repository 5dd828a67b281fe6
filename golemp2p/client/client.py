"""NodeClient: the parts of the API under one session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from golemp2p.client.activity import ActivityApi
from golemp2p.client.channels import ChannelsApi
from golemp2p.client.files import FilesApi
from golemp2p.client.market import MarketApi
from golemp2p.client.net import NetApi
from golemp2p.client.node import NodeApi
from golemp2p.client.payment import PaymentApi
from golemp2p.client.session import MAX_CONNECTIONS, Session
from golemp2p.client.wallet import WalletApi


class NodeClient:
    """One object for each part of the API: market, activity, payment, wallet, channels, files, net, node."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.market = MarketApi(session)
        self.activity = ActivityApi(session)
        self.payment = PaymentApi(session)
        self.wallet = WalletApi(session)
        self.channels = ChannelsApi(session)
        self.files = FilesApi(session)
        self.net = NetApi(session)
        self.node = NodeApi(session)


@asynccontextmanager
async def connect(
    url: str, app_key: str, *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[NodeClient]:
    """A client of the node at ``url`` (http://127.0.0.1:7465). ``transport``: e.g. ASGI, in the node process."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    headers = {"Authorization": f"Bearer {app_key}"}
    # trust_env off: a proxy from the environment must not see app-keys of a loopback API.
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, transport=transport, trust_env=False
    ) as http:
        yield NodeClient(Session(http))
