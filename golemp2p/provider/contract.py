"""What the agent knows of one agreement, and how it talks to its node about it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

import anyio
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from golemp2p.core.money import Amount, linear_cost
from golemp2p.core.properties import Properties, number
from golemp2p.errors import NetworkError
from golemp2p.provider.negotiator import EXPIRATION
from golemp2p.provider.offer import NOTE_INTERVAL, PAYMENT_TIMEOUT
from golemp2p.wire.rest.market import Agreement

RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
NO_ACTIVITY_S: Final = 90.0  # as Golem's provider: an agreement without an activity is ended

P = ParamSpec("P")
T = TypeVar("T")


def again(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """``call``, repeated with growing waits while the node cannot be reached."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(NetworkError),
        wait=wait_exponential(multiplier=RETRY_S, max=RETRY_MAX_S) + wait_random(0, RETRY_S),
        sleep=anyio.sleep,
        reraise=True,
    )

    async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        return await retrying(call, *args, **kwargs)

    return repeated


@dataclass
class Contract:
    """What the agent knows of one agreement."""

    agreement: Agreement
    live: set[str] = field(default_factory=set)  # activities that run
    seen: set[str] = field(default_factory=set)  # all that ever did: each is billed
    billed: dict[str, Amount] = field(default_factory=dict)  # by the notes so far
    final: dict[str, Amount] = field(default_factory=dict)  # of those that ended
    payable_from: float | None = None  # when the next payable note may go out (event-loop time); None: see _learn
    ended: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def id(self) -> str:
        return self.agreement.agreement_id

    def created(self, activity: str) -> None:
        self.seen.add(activity)
        self.live.add(activity)
        self.wake()

    def destroyed(self, activity: str) -> None:
        self.seen.add(activity)  # it may have come and gone between two looks
        self.live.discard(activity)
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    def seconds(self, name: str, default: float) -> float:
        """A negotiated time: of the demand, else of the offer."""
        for properties in (self.agreement.demand.properties, self.agreement.offer.properties):
            value = number(properties.get(name))
            if value is not None:
                return value
        return default

    @property
    def payment_timeout_s(self) -> float | None:
        """Between payable debit notes, and until one is due; None when mid-agreement payments are not agreed.

        They are when the demand names both times. Golem's agents end an agreement over an unagreed payable note.
        """
        asked = self.agreement.demand.properties
        if number(asked.get(NOTE_INTERVAL)) is None:
            return None
        return number(asked.get(PAYMENT_TIMEOUT))

    @property
    def life_s(self) -> float:
        """Until the demand expires."""
        value = number(self.agreement.demand.properties.get(EXPIRATION))
        return NO_ACTIVITY_S if value is None else value / 1000 - time.time()

    @property
    def single_activity(self) -> bool:
        return self.agreement.demand.properties.get("golem.srv.caps.multi-activity") is not True


def cost_of(offer: Properties, usage: list[float]) -> Amount:
    """By the agreed linear price."""
    coeffs = offer["golem.com.pricing.model.linear.coeffs"]
    if not isinstance(coeffs, list):
        raise TypeError("the offer that we made has no linear price")
    return linear_cost([float(c) for c in coeffs], usage)
