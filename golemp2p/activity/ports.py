"""What the activity services need of others. node.py hands in the real ones; tests hand in small stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol

import trio

from golemp2p.core.agreement import Agreement
from golemp2p.core.ids import AgreementId, PeerId
from golemp2p.core.vpn import NetworkOrder
from golemp2p.runtimes.link import GuestLink
from golemp2p.runtimes.outbound import OutboundPort

PROTOCOL = "/golemp2p/activity/1"

Method = Callable[[PeerId, Any], Awaitable[object]]
SendItem = Callable[[object], Awaitable[None]]
StreamMethod = Callable[[PeerId, Any, SendItem], Awaitable[None]]

AgreementLookup = Callable[[AgreementId], Awaitable[Agreement]]
"""Raises NotFoundError."""


class RpcPort(Protocol):
    """golemp2p.net.rpc.Rpc."""

    def serve(
        self, protocol: str, methods: Mapping[str, Method], streams: Mapping[str, StreamMethod] = ...
    ) -> None: ...

    async def call(self, peer: PeerId, protocol: str, method: str, body: Any, *, timeout_s: float) -> Any: ...

    def stream(
        self, peer: PeerId, protocol: str, method: str, body: Any, *, timeout_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]: ...


class JoinedPort(Protocol):
    """An activity's places in private networks; ``links`` are its devices. ``leave`` gives them up."""

    @property
    def links(self) -> Sequence[GuestLink]: ...

    def leave(self) -> None: ...


class VpnPort(Protocol):
    """golemp2p.vpn.providing.Providing."""

    async def join(
        self,
        owner: PeerId,
        orders: Sequence[NetworkOrder],
        connect: Callable[[IPv4Address, int], Awaitable[trio.abc.HalfCloseableStream]],
    ) -> JoinedPort: ...

    def outbound(self, demand: Mapping[str, object]) -> OutboundPort | None:
        """What the demand's manifest may reach outside; None when it wants nothing. Raises PolicyError, UsageError."""
        ...


class ContentPort(Protocol):
    """A verified file of the content store."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


class ContentStorePort(Protocol):
    """golemp2p.storage.content.ContentStore."""

    def lookup(self, alg: str, digest_hex: str, /) -> ContentPort | None: ...

    async def add_file(self, source: Path, /, *, also: tuple[str, ...] = ()) -> ContentPort: ...


class DataPort(Protocol):
    """golemp2p.net.data.DataService."""

    async def fetch(
        self,
        peer: PeerId,
        alg: str,
        digest_hex: str,
        destination: Path | None = None,
        /,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
        shared: bool = False,
    ) -> ContentPort:
        """``shared``: chunks of a large file may come from others that have them, and are given to others."""
        ...

    async def fetch_named(
        self,
        peer: PeerId,
        name: str,
        destination: Path,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """What a program at ``peer`` serves under a name that is no hash."""
        ...

    async def push(
        self,
        peer: PeerId,
        slot: str,
        source: Path,
        *,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> str: ...
