"""Access to chains behind one small port. ``erc20`` talks to real ones through web3, ``fake`` is a chain in memory."""

from golemp2p.payment.drivers.base import (
    BroadcastRefusedError,
    ChainDriver,
    Fees,
    Head,
    OutOfGasFundsError,
    Receipt,
    SignedTransfer,
)

__all__ = [
    "BroadcastRefusedError",
    "ChainDriver",
    "Fees",
    "Head",
    "OutOfGasFundsError",
    "Receipt",
    "SignedTransfer",
]
