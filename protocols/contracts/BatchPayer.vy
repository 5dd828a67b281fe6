# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Batch payer
@notice Pays many accounts in one transaction, and any batch of a payer at most once, whatever is sent twice.
@dev No owner, no upgrade, no custody: what comes in goes out in the same call or nothing happens at all.
     A packed word is an address (the high 20 bytes) and an amount (the low 12 bytes).
"""

from ethereum.ercs import IERC20

event BatchPaid:
    payer: indexed(address)
    batchId: indexed(bytes32)
    total: uint256
    count: uint256

MAX_LEGS: constant(uint256) = 200
AMOUNT_BITS: constant(uint256) = 96

TOKEN: immutable(IERC20)

# payer -> batch id -> done
batchDone: public(HashMap[address, HashMap[bytes32, bool]])


@deploy
def __init__(token: IERC20):
    TOKEN = token


@external
@view
def token() -> address:
    return TOKEN.address


@external
def payOnce(batchId: bytes32, packed: DynArray[bytes32, MAX_LEGS], total: uint256):
    """
    @notice Move `total` from the caller to the accounts in `packed`.
    @dev Reverts when this batch of the caller is done, when the amounts do not add up to `total`, when any leg fails.
         The mark is set before the token is called.
    """
    assert not self.batchDone[msg.sender][batchId], "batch done"
    self.batchDone[msg.sender][batchId] = True
    assert extcall TOKEN.transferFrom(msg.sender, self, total), "pull failed"
    left: uint256 = total
    for word: bytes32 in packed:
        leg: uint256 = convert(word, uint256)
        amount: uint256 = leg & (2**AMOUNT_BITS - 1)
        assert amount <= left, "legs exceed total"
        left = unsafe_sub(left, amount)
        assert extcall TOKEN.transfer(convert(leg >> AMOUNT_BITS, address), amount), "leg failed"
    assert left == 0, "total exceeds legs"
    log BatchPaid(payer=msg.sender, batchId=batchId, total=total, count=len(packed))
