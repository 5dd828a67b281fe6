"""Whether an agent still cares: its calls name agreements, activities, demands, places in networks, documents that it
accepts, or ask for a session's events.

A program that was killed calls no more. yapapi, golem-core and golem-js ask for events all the time, so the silence of
a session, and of all that belongs to an agreement, means that nobody will ever accept or end anything there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs

from golemp2p import limits

# Agents' own calls; that somebody looks at an agreement through /golemp2p/v1 does not mean that it is in use.
_NAMED: Final = re.compile(r"^/(?:market|activity)-api/v1/(agreements|activity|demands)/([^/]+)")
_CONNECTION: Final = re.compile(r"^/net-api/(?:v1|v2/vpn)/net/([^/]+)/tcp/([^/]+)/")
_ANSWER: Final = re.compile(r"^/payment-api/v1/(?:debitNotes|invoices)/([^/]+)/(?:accept|reject)$")
_EVENTS: Final = re.compile(r"^/(?:market|payment)-api/v1/(?:agreementEvents|invoiceEvents|debitNoteEvents)$")


def agreement_key(agreement_id: str) -> str:
    return f"agreements:{agreement_id}"


def activity_key(activity_id: str) -> str:
    return f"activity:{activity_id}"


def demand_key(demand_id: str) -> str:
    return f"demands:{demand_id}"


def session_key(session_id: str | None) -> str:
    """Of those who ask for events with this appSessionId; None: of those who give none, yapapi for one."""
    return f"session:{session_id or ''}"


def place_key(network_id: str, ip: str) -> str:
    """Of connections to an address in a private network."""
    return f"place:{network_id}/{ip}"


def document_key(document_id: str) -> str:
    """Of a debit note or an invoice that an agent answered."""
    return f"document:{document_id}"


def keys_of(path: str, query: str) -> list[str]:
    """What a call is about."""
    if connection := _CONNECTION.match(path):
        return [place_key(connection[1], connection[2])]
    if answer := _ANSWER.match(path):
        return [document_key(answer[1])]
    if _EVENTS.match(path):
        return [session_key(parse_qs(query).get("appSessionId", [""])[0])]
    named = _NAMED.match(path)
    return [f"{named[1]}:{named[2]}"] if named else []


class Presence:
    """When each of the keys was last in use. A call that is under way counts as now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: one that is never set: when the machine's time jumps, all programs would seem silent at once."""
        self._clock = clock
        self._began = clock()  # after a restart nobody has been silent yet; nor before what was forgotten
        self._last: dict[str, float] = {}  # the longest unused first
        self._under_way: dict[str, int] = {}

    @contextmanager
    def call(self, path: str, query: str) -> Iterator[None]:
        keys = keys_of(path, query)
        for key in keys:
            self._under_way[key] = self._under_way.get(key, 0) + 1
        try:
            yield
        finally:
            for key in keys:
                self._under_way[key] -= 1
                if not self._under_way[key]:
                    del self._under_way[key]
                self._last.pop(key, None)
                self._last[key] = self._clock()
            while len(self._last) > limits.MAX_PRESENCES:
                self._began = max(self._began, self._last.pop(next(iter(self._last))))

    def silent_s(self, keys: Iterable[str]) -> float:
        """For how long nobody has called about any of ``keys``, counted from our start at the earliest."""
        latest = self._began
        for key in keys:
            if key in self._under_way:
                return 0.0
            latest = max(latest, self._last.get(key, 0.0))
        return self._clock() - latest
