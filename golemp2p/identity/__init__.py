"""Ethereum keys: the node's key, its encrypted file (keystore V3), signing."""

from golemp2p.identity.keys import NodeKey, Signer
from golemp2p.identity.keystore import create_keystore, unlock_keystore

__all__ = ["NodeKey", "Signer", "create_keystore", "unlock_keystore"]
