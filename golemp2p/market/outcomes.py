"""What became of the last attempt at each foreign offer: nobody there, refused and why. In memory, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from golemp2p import limits
from golemp2p.core.explain import Cause
from golemp2p.core.ids import SubscriptionId
from golemp2p.errors import GolemError, NetworkError


@dataclass(frozen=True)
class Outcome:
    """``at``: seconds since the epoch; ``code``: the provider's own ("golem.provider.code"), or of our error."""

    at: float
    cause: Cause
    code: str
    message: str


def withdrawn(at: float) -> Outcome:
    """Of an offer that is no more since ``at``."""
    return Outcome(at, Cause.WITHDRAWN, "", "its provider has withdrawn it: it is busy, or has stopped")


class Outcomes:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes: OrderedDict[SubscriptionId, Outcome] = OrderedDict()

    def failed(self, offer: SubscriptionId, error: GolemError) -> None:
        """A call to its provider ended in ``error``."""
        cause = Cause.UNREACHABLE if isinstance(error, NetworkError) else Cause.REFUSED
        self._note(offer, cause, error.code, error.message)

    def refused(self, offer: SubscriptionId, reason: Mapping[str, object]) -> None:
        """Its provider said no, with a reason as agents send them."""
        self._note(offer, Cause.REFUSED, str(reason.get("golem.provider.code", "")), str(reason.get("message", "")))

    def succeeded(self, offer: SubscriptionId) -> None:
        self._outcomes.pop(offer, None)

    def of(self, offer: SubscriptionId) -> Outcome | None:
        found = self._outcomes.get(offer)
        return found if found is not None and self._clock() - found.at < limits.OUTCOME_KEEP_S else None

    def _note(self, offer: SubscriptionId, cause: Cause, code: str, message: str) -> None:
        self._outcomes.pop(offer, None)
        shown = message[: limits.OUTCOME_MAX_CHARS]
        self._outcomes[offer] = Outcome(self._clock(), cause, code[: limits.OUTCOME_MAX_CHARS], shown)
        if len(self._outcomes) > limits.MAX_OUTCOMES:
            self._outcomes.popitem(last=False)
