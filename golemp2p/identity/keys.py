"""One secp256k1 key = Ethereum account = libp2p key."""

from __future__ import annotations

import secrets
from typing import Protocol

import coincurve

from golemp2p.core.ids import Address, PeerId
from golemp2p.core.peer import address_of_key, peer_id_of
from golemp2p.errors import UsageError


class Signer(Protocol):
    """What the services need of a key: who it is, and 65-byte signatures over 32-byte digests."""

    @property
    def address(self) -> Address: ...

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, digest: bytes) -> bytes: ...


class NodeKey:
    """The unlocked key. ``sign`` takes 35 us, so it needs no thread. ``repr`` never shows the secret."""

    def __init__(self, secret: bytes) -> None:
        try:
            self._key = coincurve.PrivateKey(secret)
        except ValueError as exc:
            raise UsageError("not a valid secp256k1 private key", hint="32 bytes, not zero, below the order") from exc
        public = self._key.public_key.format(compressed=True)
        self.public_key: bytes = bytes(public)
        self.address: Address = address_of_key(public)
        self.peer_id: PeerId = peer_id_of(public)

    @classmethod
    def generate(cls) -> NodeKey:
        while True:
            try:
                return cls(secrets.token_bytes(32))
            except UsageError:  # one in 2^128
                continue

    @property
    def secret(self) -> bytes:
        """The 32 private bytes, for libp2p and for signing transactions. Never log it."""
        return bytes(self._key.secret)

    def sign(self, digest: bytes) -> bytes:
        """r ‖ s ‖ v with v in 27, 28 (low s)."""
        if len(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        signature = bytearray(self._key.sign_recoverable(digest, hasher=None))
        signature[64] += 27
        return bytes(signature)

    def __repr__(self) -> str:
        return f"NodeKey({self.address})"
