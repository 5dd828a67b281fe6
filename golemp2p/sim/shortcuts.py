"""What a simulation of many nodes in one process computes once instead of once per node, with the same outcome.

The same gossip bytes are decoded once, the same record is one object for all nodes, and its signature is checked once:
forged ones are refused each time. What depends on a node's clock (expiry, skew) is looked at every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Final
from weakref import WeakValueDictionary

from golemp2p import limits
from golemp2p.core import records
from golemp2p.core.eip712 import Domain
from golemp2p.core.records import ExpiredRecordError, MarketRecord, UntimelyRecordError
from golemp2p.market import sync
from golemp2p.wire.p2p.market import RecordBody, RenewalBody

_DECODED: Final = 4_096  # gossip messages under way at a time
_MARK: Final = "_sim_verified"


@contextmanager
def _replaced(where: Any, name: str, value: object) -> Iterator[None]:
    kept = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, kept)


class _Known:
    """The one object of each record, by its signature."""

    def __init__(self) -> None:
        self._records: WeakValueDictionary[bytes, MarketRecord] = WeakValueDictionary()

    def of_body(self, original: Callable[[RecordBody], MarketRecord]) -> Callable[[RecordBody], MarketRecord]:
        def record(body: RecordBody) -> MarketRecord:
            found = self._records.get(body.signature)
            if found is not None and (
                found.sequence == body.sequence
                and found.id == body.id
                and found.issuer == body.issuer
                and found.kind is body.kind
                and round(found.expires_at * 1000) == body.expires_at
                and round(found.issued_at * 1000) == body.issued_at
                and found.subnet == body.subnet
                and found.content == body.content
            ):
                return found
            made = original(body)
            self._records[made.signature] = made
            return made

        return record

    def of_renewal(
        self, original: Callable[[RenewalBody, MarketRecord], MarketRecord]
    ) -> Callable[[RenewalBody, MarketRecord], MarketRecord]:
        def record(body: RenewalBody, known: MarketRecord) -> MarketRecord:
            found = self._records.get(body.signature)
            if found is not None and (
                found.sequence == body.sequence
                and found.id == known.id
                and found.issuer == known.issuer
                and found.kind is known.kind
                and round(found.expires_at * 1000) == body.expires_at
                and round(found.issued_at * 1000) == body.issued_at
                and found.subnet == known.subnet
                and found.content == known.content
            ):
                return found
            made = original(body, known)
            self._records[made.signature] = made
            return made

        return record


def _verifying(original: Callable[..., None]) -> Callable[..., None]:
    def verify(record: MarketRecord, domain: Domain, *, now: float) -> None:
        if record.__dict__.get(_MARK) != domain:
            original(record, domain, now=now)
            record.__dict__[_MARK] = domain
            return
        if record.expires_at <= now:
            raise ExpiredRecordError(f"record {record.id} expired {now - record.expires_at:.1f} s ago")
        if record.issued_at > now + limits.MAX_CLOCK_SKEW_S:
            raise UntimelyRecordError(f"record {record.id} is issued {record.issued_at - now:.0f} s in the future")

    return verify


def was_verified(record: MarketRecord, domain: Domain) -> bool:
    """Whether some node has looked at its signature, and found it good."""
    return record.__dict__.get(_MARK) == domain


@contextmanager
def computed_once() -> Iterator[None]:
    with ExitStack() as stack:
        known = _Known()
        stack.enter_context(_replaced(RecordBody, "record", known.of_body(RecordBody.record)))
        stack.enter_context(_replaced(RenewalBody, "record", known.of_renewal(RenewalBody.record)))
        verify = _verifying(records.verify_record)
        stack.enter_context(_replaced(sync, "verify_record", verify))
        stack.enter_context(_replaced(sync, "_decode", lru_cache(_DECODED)(sync._decode)))
        yield
