"""Chains: the port, and its adapters."""

from golemp2p.payment.drivers.base import ChainDriver, Head, Receipt, SignedTransaction

__all__ = ["ChainDriver", "Head", "Receipt", "SignedTransaction"]
