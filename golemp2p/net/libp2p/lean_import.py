"""Import libp2p without the parts that golemp2p never runs.

``import libp2p`` pulls in every transport, discovery method and peer store it has (QUIC with aioquic, WebSocket, TLS
with ACME over httpx and requests, mDNS, UPnP, relay, RSA, SECIO, a DNS client): half of its time and a third of its
memory. We use TCP, Noise, Yamux, secp256k1 keys, GossipSub and Kademlia only.

:func:`install` puts a finder in front of the import system that answers for the modules named in :data:`UNUSED` (all
inside libp2p and multiaddr, so no other package sees a difference) with placeholders. A placeholder's attributes are
classes and functions that can be imported, named in annotations, ``isinstance`` and ``except`` clauses, and that raise
when somebody calls them. Can go when libp2p imports its transports on demand (tests/unit/net/test_lean_import.py
compares).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

# Each with everything below it.
UNUSED: Final = (
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "libp2p.transport.cmux",
    "libp2p.security.tls",
    "libp2p.security.secio",
    "libp2p.discovery",
    "libp2p.relay",
    "libp2p.peer.persistent",
    "libp2p.crypto.rsa",
    "multiaddr.resolvers",
)


class NotIncludedError(RuntimeError):
    """libp2p called into a part that golemp2p leaves out."""


class _PlaceholderType(type):
    def __call__(cls, *_args: object, **_kwargs: object) -> Any:
        raise NotIncludedError(f"{cls.__module__}.{cls.__name__} is left out by golemp2p (net/libp2p/lean_import.py)")

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _function(cls.__module__, f"{cls.__name__}.{name}")


def _function(module: str, name: str) -> Any:
    def left_out(*_args: object, **_kwargs: object) -> Any:
        raise NotIncludedError(f"{module}.{name} is left out by golemp2p (net/libp2p/lean_import.py)")

    return left_out


class _NoResolver:
    """Made by libp2p at start, asked only for names; we resolve names ourselves (addresses.py)."""

    def __getattr__(self, name: str) -> Any:
        return _function("multiaddr.resolvers", f"DNSResolver.{name}")


# What libp2p calls even when the feature is off, with the answer for "off".
_ANSWERS: Final[dict[str, Any]] = {"is_quic_multiaddr": lambda *_: False, "DNSResolver": _NoResolver}


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any
        if name in _ANSWERS:
            value = _ANSWERS[name]
        elif name.endswith(("Error", "Exception")):
            value = type(name, (Exception,), {"__module__": self.__name__})
        elif name[0].isupper() and not name.isupper():
            value = _PlaceholderType(name, (), {"__module__": self.__name__})
        elif name.isupper():
            value = f"/left-out/{name}"
        else:
            value = _function(self.__name__, name)
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(fullname == name or fullname.startswith(name + ".") for name in UNUSED):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Idempotent. Does nothing when libp2p has been imported whole before."""
    if "libp2p" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
