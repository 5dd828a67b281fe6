"""Asking chains: endpoints that fail, lie, lag and refuse, as one source that can be relied on. See pool.py."""

from golemp2p.payment.chain.errors import DisagreementError, EndpointError, RpcAnswerError
from golemp2p.payment.chain.pool import EndpointPool

__all__ = ["DisagreementError", "EndpointError", "EndpointPool", "RpcAnswerError"]
