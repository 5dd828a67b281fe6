"""A chain of one's own on loopback, with test GLM and a faucet: for tests, the demo and ``golemp2p localnet``.

anvil (one binary from the npm package) where it can be had; else an EVM in Python (the ``localchain`` extra), which
is slower and says so. Both speak JSON-RPC over HTTP, so whoever pays on them does it as on a real chain.
"""

from golemp2p.localchain.chain import LocalChain, open_local_chain

__all__ = ["LocalChain", "open_local_chain"]
