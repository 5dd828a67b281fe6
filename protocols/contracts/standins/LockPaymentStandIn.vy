# pragma version 0.4.3
# pragma evm-version cancun
# SPDX-License-Identifier: Apache-2.0
"""
@title Stand-in for Golem's deployed lock payment contract (deposits)
@notice For tests and local chains only. It has that contract's functions, as far as deposits need them, written anew
        from their description: a funder locks tokens, the spender pays from them, the rest goes back.
"""

from ethereum.ercs import IERC20

struct Deposit:
    spender: address
    amount: uint128
    feeAmount: uint128
    validTo: uint64

struct DepositView:
    id: uint256
    nonce: uint64
    funder: address
    spender: address
    amount: uint128
    feeAmount: uint128
    validTo: uint64

MAX_LEGS: constant(uint256) = 200
GLM: public(immutable(IERC20))

# The funder's address and a nonce make the id.
deposits: public(HashMap[uint256, Deposit])


@deploy
def __init__(glm: IERC20):
    GLM = glm


@external
@pure
def idFromNonceAndFunder(nonce: uint64, funder: address) -> uint256:
    return self._id(nonce, funder)


@external
@view
def idFromNonce(nonce: uint64) -> uint256:
    return self._id(nonce, msg.sender)


@external
@pure
def funderFromId(id: uint256) -> address:
    return self._funder(id)


@external
@view
def getDeposit(id: uint256) -> DepositView:
    found: Deposit = self.deposits[id]
    return DepositView(
        id=id,
        nonce=convert(id & (2**64 - 1), uint64),
        funder=self._funder(id),
        spender=found.spender,
        amount=found.amount,
        feeAmount=found.feeAmount,
        validTo=found.validTo,
    )


@external
def createDeposit(
    nonce: uint64, spender: address, amount: uint128, constFeeAmount: uint128, percentFee: int64, validTo: uint64
) -> uint256:
    id: uint256 = self._id(nonce, msg.sender)
    assert self.deposits[id].amount == 0, "nonce in use"
    assert amount > 0, "no amount"
    assert percentFee == 0, "no percentage here"
    assert spender != empty(address) and spender != msg.sender, "bad spender"
    assert extcall GLM.transferFrom(msg.sender, self, convert(amount + constFeeAmount, uint256))
    self.deposits[id] = Deposit(spender=spender, amount=amount, feeAmount=constFeeAmount, validTo=validTo)
    return id


@external
def extendDeposit(nonce: uint64, extraAmount: uint128, extraFee: uint128, validTo: uint64):
    id: uint256 = self._id(nonce, msg.sender)
    found: Deposit = self.deposits[id]
    assert extcall GLM.transferFrom(msg.sender, self, convert(extraAmount + extraFee, uint256))
    assert found.validTo <= validTo, "sooner than before"
    found.amount += extraAmount
    found.feeAmount += extraFee
    found.validTo = validTo
    self.deposits[id] = found


@external
def terminateDeposit(nonce: uint64):
    id: uint256 = self._id(nonce, msg.sender)
    found: Deposit = self.deposits[id]
    assert convert(found.validTo, uint256) < block.timestamp, "too early"
    self._empty(id)
    assert extcall GLM.transfer(msg.sender, convert(found.amount + found.feeAmount, uint256))


@external
def closeDeposit(id: uint256):
    self._close(id)


@external
def depositSingleTransfer(id: uint256, addr: address, amount: uint128):
    self._spend(id, addr, amount)


@external
def depositSingleTransferAndClose(id: uint256, addr: address, amount: uint128):
    self._spend(id, addr, amount)
    self._close(id)


@external
def depositTransfer(id: uint256, payments: DynArray[bytes32, MAX_LEGS]):
    self._spend_many(id, payments)


@external
def depositTransferAndClose(id: uint256, payments: DynArray[bytes32, MAX_LEGS]):
    self._spend_many(id, payments)
    self._close(id)


@internal
def _spend_many(id: uint256, payments: DynArray[bytes32, MAX_LEGS]):
    for word: bytes32 in payments:
        amount: uint128 = convert(convert(word, uint256) & (2**96 - 1), uint128)
        self._spend(id, convert(convert(word, uint256) >> 96, address), amount)


@internal
def _spend(id: uint256, addr: address, amount: uint128):
    found: Deposit = self.deposits[id]
    assert msg.sender == found.spender, "not the spender"
    assert addr != found.spender, "not to the spender"
    assert found.amount >= amount, "too little left"
    self.deposits[id].amount = found.amount - amount
    assert extcall GLM.transfer(addr, convert(amount, uint256))


@internal
def _close(id: uint256):
    found: Deposit = self.deposits[id]
    assert msg.sender == found.spender, "not the spender"
    self._empty(id)
    assert extcall GLM.transfer(self._funder(id), convert(found.amount, uint256))
    if found.feeAmount > 0:
        assert extcall GLM.transfer(found.spender, convert(found.feeAmount, uint256))


@internal
def _empty(id: uint256):
    self.deposits[id].amount = 0
    self.deposits[id].feeAmount = 0


@internal
@pure
def _id(nonce: uint64, funder: address) -> uint256:
    return (convert(funder, uint256) << 96) ^ convert(nonce, uint256)


@internal
@pure
def _funder(id: uint256) -> address:
    return convert(id >> 96, address)
