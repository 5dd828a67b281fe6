# pragma version 0.4.3
# pragma evm-version cancun
# SPDX-License-Identifier: Apache-2.0
"""
@title Stand-in for Golem's deployed multi-transfer contract
@notice For tests and local chains only. It has the functions of that contract, written anew from their description.
@dev A packed word is an address (the high 20 bytes) and an amount (the low 12 bytes).
"""

from ethereum.ercs import IERC20

MAX_LEGS: constant(uint256) = 200
GLM: public(immutable(IERC20))


@deploy
def __init__(glm: IERC20):
    GLM = glm


@external
def golemTransferIndirectPacked(payments: DynArray[bytes32, MAX_LEGS], totalTransferred: uint256):
    assert extcall GLM.transferFrom(msg.sender, self, totalTransferred)
    total: uint256 = 0
    for word: bytes32 in payments:
        amount: uint256 = convert(word, uint256) & (2**96 - 1)
        total += amount
        assert extcall GLM.transfer(convert(convert(word, uint256) >> 96, address), amount)
    assert total == totalTransferred, "sums differ"


@external
def golemTransferDirectPacked(payments: DynArray[bytes32, MAX_LEGS]):
    for word: bytes32 in payments:
        amount: uint256 = convert(word, uint256) & (2**96 - 1)
        assert extcall GLM.transferFrom(msg.sender, convert(convert(word, uint256) >> 96, address), amount)


@external
def golemTransferIndirect(recipients: DynArray[address, MAX_LEGS], amounts: DynArray[uint256, MAX_LEGS]):
    assert len(recipients) == len(amounts)
    total: uint256 = 0
    for amount: uint256 in amounts:
        total += amount
    assert extcall GLM.transferFrom(msg.sender, self, total)
    for i: uint256 in range(len(recipients), bound=MAX_LEGS):
        assert extcall GLM.transfer(recipients[i], amounts[i])


@external
def golemTransferDirect(recipients: DynArray[address, MAX_LEGS], amounts: DynArray[uint256, MAX_LEGS]):
    assert len(recipients) == len(amounts)
    for i: uint256 in range(len(recipients), bound=MAX_LEGS):
        assert extcall GLM.transferFrom(msg.sender, recipients[i], amounts[i])
