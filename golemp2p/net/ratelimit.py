"""A token bucket per key, bounded in keys. Time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from golemp2p import limits


class RateLimit:
    """``per_s`` on average and ``burst`` at once, for each key."""

    def __init__(self, per_s: float, burst: int, *, max_keys: int = limits.MAX_KNOWN_PEERS) -> None:
        self._per_s, self._burst, self._max_keys = per_s, burst, max_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # key -> (tokens, at)

    def allow(self, key: Hashable, now: float) -> bool:
        tokens, at = self._buckets.pop(key, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._per_s)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)  # the longest unheard key
        return allowed
