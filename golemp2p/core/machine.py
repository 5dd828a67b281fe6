"""A state machine is a table ``(state, event) -> state``.

Everything that has states in golemp2p is one of these: the rules are read off the table, the diagrams in protocols/
are drawn from it, and property tests walk it. An event that the table does not have is an error with a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from golemp2p.errors import LocalProtocolError

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class ImpossibleEventError(LocalProtocolError):
    """``event`` cannot happen in ``state``."""

    code = "impossible_event"

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine} is {state}: {event} is not possible now")
        self.machine, self.state, self.event = machine, state, event


@dataclass(frozen=True)
class Machine(Generic[S, E]):
    """One table with a name. ``final`` states have no way out."""

    name: str
    initial: S
    table: Mapping[tuple[S, E], S]

    def next(self, state: S, event: E) -> S:
        """The state after ``event``. Raises ImpossibleEventError."""
        try:
            return self.table[state, event]
        except KeyError:
            raise ImpossibleEventError(self.name, state, event) from None

    def can(self, state: S, event: E) -> bool:
        return (state, event) in self.table

    @property
    def final(self) -> frozenset[S]:
        sources = {state for state, _ in self.table}
        return frozenset(target for target in self.table.values() if target not in sources)

    def diagram(self) -> str:
        """The table as a Mermaid state diagram (protocols/ shows it)."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial}"]
        lines += [f"    {state} --> {target}: {event}" for (state, event), target in self.table.items()]
        lines += [f"    {state} --> [*]" for state in sorted(self.final)]
        return "\n".join(lines)
