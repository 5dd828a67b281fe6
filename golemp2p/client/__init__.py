"""The typed REST client: the only way by which the SDK, the provider agent and the CLI talk to a node.

Runs on trio and on asyncio (httpx over anyio).
"""

from golemp2p.client.client import NodeClient, connect

__all__ = ["NodeClient", "connect"]
