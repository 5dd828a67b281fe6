"""Payees whose transfers the token contract refuses: set aside, so that they neither burn gas nor hold up others.

A refusal foreseen by a simulated call costs nothing: it is simulated again after a pause. One that was mined cost a
fee: after ``MAX_TRANSFER_REVERTS`` of them in a row nothing more is sent to that payee until somebody says so (an
allocation of the platform is amended, or the node is started again). What is owed stays owed and visible throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from golemp2p import limits
from golemp2p.core.ids import Address


@dataclass(frozen=True)
class _Trouble:
    reverts: int = 0
    until: float = 0.0  # seconds since the epoch
    reason: str = ""


class Parking:
    """By platform and payee; in memory only: a restart tries again."""

    def __init__(self) -> None:
        self._troubles: dict[tuple[str, Address], _Trouble] = {}
        self._suspects: set[tuple[str, Address]] = set()

    def reverted(self, platform: str, payee: Address, reason: str) -> None:
        """A transfer to ``payee`` was mined and failed."""
        reverts = self._troubles.get((platform, payee), _Trouble()).reverts + 1
        until = float("inf") if reverts >= limits.MAX_TRANSFER_REVERTS else 0.0
        self._troubles[platform, payee] = _Trouble(reverts, until, reason)

    def refused(self, platform: str, payee: Address, reason: str, *, now: float) -> None:
        """A simulated transfer failed."""
        reverts = self._troubles.get((platform, payee), _Trouble()).reverts
        self._troubles[platform, payee] = _Trouble(reverts, now + limits.REFUSED_TRANSFER_PAUSE_S, reason)

    def suspect(self, platform: str, payees: Iterable[Address]) -> None:
        """A transaction that was to pay all of them failed: each is paid by itself until it was."""
        self._suspects.update((platform, payee) for payee in payees)

    def is_suspect(self, platform: str, payee: Address) -> bool:
        return (platform, payee) in self._suspects

    def paid(self, platform: str, payee: Address) -> None:
        self._suspects.discard((platform, payee))
        self._troubles.pop((platform, payee), None)

    def rearm(self, platform: str) -> None:
        """Somebody wants it tried again."""
        for key in [key for key in self._troubles if key[0] == platform]:
            del self._troubles[key]

    def why(self, platform: str, payee: Address, *, now: float) -> str:
        """Why nothing is sent to ``payee`` now; "" when it may be."""
        trouble = self._troubles.get((platform, payee), _Trouble())
        if trouble.until <= now:
            return ""
        if trouble.reverts >= limits.MAX_TRANSFER_REVERTS:
            return f"{trouble.reverts} transfers were reverted by the token contract: {trouble.reason}"
        return trouble.reason
