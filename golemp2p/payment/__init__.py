"""Ledger service, settlement engine, chain drivers. See service.py for the composition, protocols/payment.md for the
rules between nodes. node.py builds a :class:`PaymentService` and runs it; nothing here loads web3 until money moves.
"""

from golemp2p.payment.networks import PaymentNetwork
from golemp2p.payment.ports import Agreements, PaymentSettings, Rpc
from golemp2p.payment.service import PaymentService

__all__ = ["Agreements", "PaymentNetwork", "PaymentService", "PaymentSettings", "Rpc"]
