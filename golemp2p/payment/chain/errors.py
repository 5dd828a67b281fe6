"""How asking a chain fails. None of them ever names more of a URL than its host."""

from __future__ import annotations

from typing import Final

from golemp2p.errors import NetworkError

# Every implementation words these in its own way.
_REVERTED: Final = ("revert", "invalid opcode", "vm execution error", "out of gas", "transactionfailed")
_BUSY: Final = ("rate limit", "too many request", "limit exceeded", "quota", "capacity", "exceeded the maximum")
_TRANSACTION_REFUSED: Final = ("nonce too", "insufficient funds", "underpriced", "already known", "already imported")


class EndpointError(NetworkError):
    """One endpoint cannot be reached, or answers what is no answer."""

    code = "chain_endpoint"


class EndpointBusyError(EndpointError):
    """The endpoint asks us to come back later. ``retry_after_s``: when, if it says so, else 0."""

    code = "chain_busy"

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RpcAnswerError(NetworkError):
    """The endpoint answered with a JSON-RPC error: ``text`` is its own message, ``data`` what came with it."""

    code = "chain_rpc"

    def __init__(self, message: str, *, text: str, rpc_code: int = 0, data: str = "") -> None:
        super().__init__(message)
        self.text = text
        self.rpc_code = rpc_code
        self.data = data

    @property
    def reverted(self) -> bool:
        """A contract said no: an answer, not a failure of the endpoint."""
        text = self.text.lower()
        return self.rpc_code == 3 or any(words in text for words in _REVERTED)

    @property
    def busy(self) -> bool:
        text = self.text.lower()
        return self.rpc_code in (-32005, 429) or any(words in text for words in _BUSY)

    @property
    def about_call(self) -> bool:
        """Whether the next endpoint would say the same."""
        text = self.text.lower()
        return self.reverted or any(words in text for words in _TRANSACTION_REFUSED)


class DisagreementError(NetworkError):
    """Endpoints give different answers to a question on which money depends; the message says who says what."""

    code = "chain_disagreement"
