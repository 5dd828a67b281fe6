"""What the payment service needs of the rest of the node, as small protocols; node.py plugs the real things in."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import ActivityId, AgreementId, PeerId
from golemp2p.errors import UsageError
from golemp2p.identity.keys import Signer
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.parking import Parking
from golemp2p.payment.purse import Caps, Purse
from golemp2p.storage.engine import Storage

Handler = Callable[[PeerId, Mapping[str, object]], Awaitable[object]]
Clock = Callable[[], float]  # seconds since the epoch
KnowsActivity = Callable[[AgreementId, ActivityId], Awaitable[bool]]


class Rpc(Protocol):
    """Calls between nodes. ``call`` raises NetworkError (try again) or RemoteError (the peer answered with one)."""

    async def call(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> object: ...

    def serve(self, protocol: str, methods: Mapping[str, Handler]) -> None: ...


class Agreements(Protocol):
    async def agreement(self, agreement_id: AgreementId) -> Agreement:
        """Raises NotFoundError."""
        ...


class News:
    """Wakes whoever waits for a change. Take :meth:`next` before looking, so that no change slips between."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._empty: dict[Hashable, float] = {}  # questions without an answer since the last news, and when

    def next(self) -> trio.Event:
        return self._event

    def tell(self) -> None:
        self._event.set()
        self._event = trio.Event()
        self._empty.clear()

    def may_answer(self, question: Hashable) -> bool:
        """Whether a look may find more than the last one for this question. After POLL_LOOK_S it always may."""
        return trio.current_time() - self._empty.get(question, -math.inf) > limits.POLL_LOOK_S

    def had_no_answer(self, question: Hashable, news: trio.Event) -> None:
        """``news``: :meth:`next` from before the look."""
        if question is not None and news is self._event and len(self._empty) < limits.MAX_POLL_QUESTIONS:
            self._empty[question] = trio.current_time()


@dataclass(frozen=True)
class PaymentSettings:
    """``auto_accept_after_s``: when the node answers for a silent agent; None: never."""

    auto_accept_after_s: float | None = limits.AUTO_ACCEPT_AFTER_S
    caps: Caps = field(default_factory=Caps)
    channels: ChannelSettings = field(default_factory=ChannelSettings)


@dataclass(frozen=True)
class Context:
    """What the parts of the payment service share."""

    storage: Storage
    signer: Signer
    domain: Domain
    drivers: Mapping[str, ChainDriver]  # by platform
    agreements: Agreements
    clock: Clock
    settings: PaymentSettings
    knows_activity: KnowsActivity | None
    purse: Purse  # signs money, and nothing else does
    parking: Parking = field(default_factory=Parking)  # payees that cannot be paid
    events: News = field(default_factory=News)  # a document changed
    outbox: News = field(default_factory=News)  # a message waits
    debts: News = field(default_factory=News)  # something is to be paid, or was ordered
    orders: News = field(default_factory=News)  # one changed
    claims: News = field(default_factory=News)  # a payment notice came in

    def driver(self, platform: str) -> ChainDriver:
        """Raises UsageError for a platform that this node does not have."""
        try:
            return self.drivers[platform]
        except KeyError:
            raise UsageError(
                f"payment platform {platform!r} is not configured here",
                hint=f"one of: {', '.join(sorted(self.drivers)) or 'none'}",
            ) from None

    def now_ms(self) -> int:
        return round(self.clock() * 1000)
