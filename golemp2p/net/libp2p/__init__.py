"""The libp2p adapter. Importing :mod:`golemp2p.net.libp2p.host` costs 0.3 s, so nothing is imported here."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork


def open_libp2p_network(key: NodeKey, config: NetConfig | None = None) -> AbstractAsyncContextManager[Libp2pNetwork]:
    """See :func:`golemp2p.net.libp2p.host.open_libp2p_network`."""
    from golemp2p.net.libp2p.host import open_libp2p_network as open_network

    return open_network(key, config)
