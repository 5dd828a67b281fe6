"""Private networks: the connection of nodes that share a key, as libp2p's specification of pnets has it.

Every byte of a TCP connection is encrypted with XSalsa20 under the pre-shared key, each direction after 24 random
bytes of nonce. A stranger sees noise and is answered with noise, from the first byte on. It is no authentication:
that is the Noise handshake's, inside, whose prologue holds the key's hash, too (:func:`prologue_of`).

py-libp2p's own PskConn uses Salsa20 with a nonce of 8 bytes and so speaks to nobody else's private networks.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any, Final

from Crypto.Cipher import Salsa20
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException

NONCE_BYTES: Final = 24
_MASK: Final = 0xFFFFFFFF
_SIGMA: Final = struct.unpack("<4I", b"expand 32-byte k")
_QUARTERS: Final = (
    ((4, 0, 12), (8, 4, 0), (12, 8, 4), (0, 12, 8)),
    ((9, 5, 1), (13, 9, 5), (1, 13, 9), (5, 1, 13)),
    ((14, 10, 6), (2, 14, 10), (6, 2, 14), (10, 6, 2)),
    ((3, 15, 11), (7, 3, 15), (11, 7, 3), (15, 11, 7)),
    ((1, 0, 3), (2, 1, 0), (3, 2, 1), (0, 3, 2)),
    ((6, 5, 4), (7, 6, 5), (4, 7, 6), (5, 4, 7)),
    ((11, 10, 9), (8, 11, 10), (9, 8, 11), (10, 9, 8)),
    ((12, 15, 14), (13, 12, 15), (14, 13, 12), (15, 14, 13)),
)
_ROTATIONS: Final = (7, 9, 13, 18)


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The 32-byte key that 32 bytes of key and 16 of nonce give (D. J. Bernstein, "Extending the Salsa20 nonce")."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for quarter in _QUARTERS:
            for (target, a, b), rotation in zip(quarter, _ROTATIONS, strict=True):
                total = (x[a] + x[b]) & _MASK
                x[target] ^= ((total << rotation) | (total >> (32 - rotation))) & _MASK
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


def xsalsa20(key: bytes, nonce: bytes) -> Any:
    """pycryptodome's cipher object; ``nonce`` has 24 bytes."""
    return Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class PrivateConnection(RawConnection):  # type: ignore[misc] # libp2p ships no types
    """A raw connection whose bytes only those read who have the key."""

    def __init__(self, connection: Any, key: bytes) -> None:
        self._raw, self._key = connection, key
        self._reading: Any = None
        self._writing: Any = None
        self.is_initiator = connection.is_initiator

    async def write(self, data: bytes) -> None:
        head = b""
        if self._writing is None:
            head = os.urandom(NONCE_BYTES)
            self._writing = xsalsa20(self._key, head)
        await self._raw.write(head + self._writing.encrypt(data))

    async def read(self, n: int | None = None) -> bytes:
        if self._reading is None:
            nonce = b""
            while len(nonce) < NONCE_BYTES:
                piece = await self._raw.read(NONCE_BYTES - len(nonce))
                if not piece:
                    return b""
                nonce += piece
            self._reading = xsalsa20(self._key, nonce)
        data = await self._raw.read(n)
        return self._reading.decrypt(data) if data else b""

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._raw.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Any]:
        return list(self._raw.get_transport_addresses())

    def get_connection_type(self) -> Any:
        return self._raw.get_connection_type()


def protect(connection: Any, psk: str) -> PrivateConnection:
    """In place of libp2p's ``new_protected_conn``; ``psk`` is 64 hex digits."""
    if len(psk) != 64:
        raise SwarmException("a private network's key has 64 hex digits")
    return PrivateConnection(connection, bytes.fromhex(psk))


def prologue_of(network: str, psk: bytes | None) -> bytes:
    """What both ends of a Noise handshake must agree on: nodes of another network fail at its second message."""
    secret = hashlib.sha256(b"golemp2p-psk:" + psk).hexdigest() if psk else ""
    return f"golemp2p/1/{network}/{secret}".encode()
