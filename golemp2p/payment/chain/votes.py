"""What endpoints answered, compared as facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from golemp2p.payment.chain.errors import RpcAnswerError

T = TypeVar("T")


class Reverted:
    """As an answer: a contract refused the call. Equal to every other refusal: nodes word them differently."""

    def __init__(self, error: RpcAnswerError) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reverted)

    def __hash__(self) -> int:
        return hash(Reverted)

    def __repr__(self) -> str:
        return f"refused ({self.error.text[:100]})"


def most(answers: Sequence[tuple[str, T]]) -> tuple[T, int] | None:
    """The answer that most give, and how many."""
    best: tuple[T, int] | None = None
    for _, fact in answers:
        count = sum(other == fact for _, other in answers)
        if best is None or count > best[1]:
            best = (fact, count)
    return best


def shown(fact: object) -> str:
    if isinstance(fact, tuple):
        return f"({', '.join(shown(part) for part in fact[:8])}{', …' if len(fact) > 8 else ''})"
    text = "0x" + fact.hex() if isinstance(fact, bytes) else str(fact)
    return text if len(text) <= 100 else text[:97] + "…"
