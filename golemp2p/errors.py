"""Error families by blame.

Every error says what was refused, the value, the limit or setting, and what to do. Foreign exceptions (libp2p,
web3, wasmtime, httpx) are mapped to one of these at the border of the package that owns the library.
"""

from __future__ import annotations


class GolemError(Exception):
    """Base of everything that golemp2p raises on purpose.

    ``message`` is one sentence for a person; ``hint`` is what to do about it (may be empty); ``code`` is stable, for
    programs, and travels over the wire.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(GolemError):
    """The caller (a person, an agent, our own code) asked for something that cannot be."""

    code = "usage"


class LocalProtocolError(UsageError):
    """We tried to do what the protocol does not allow now; the state machine refused."""

    code = "local_protocol"


class NotFoundError(UsageError):
    """An id that this node does not know."""

    code = "not_found"


class GoneError(UsageError):
    """An id that was known and has ended (expired, released, withdrawn, already used)."""

    code = "gone"


class ConflictError(UsageError):
    """The request contradicts what is already so."""

    code = "conflict"


class RemoteProtocolError(GolemError):
    """The peer sent what the protocol does not allow."""

    code = "remote_protocol"


class RemoteError(GolemError):
    """The peer answered, with an error of its own. ``code`` is the peer's error code."""

    def __init__(self, message: str, *, code: str = "error", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class NetworkError(GolemError):
    """The world: unreachable, cut, too slow. Trying again later may help."""

    code = "network"


class DeadlineError(NetworkError):
    """A named wait ended without an answer."""

    code = "deadline"


class PolicyError(GolemError):
    """Refused on purpose; the message names the setting that would allow it."""

    code = "policy"


class InternalError(GolemError):
    """Our own mistake."""

    code = "internal"
