# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
# SPDX-License-Identifier: Apache-2.0
"""
@title Voucher channels
@notice A payer locks tokens for one payee. Off the chain it signs vouchers with a growing total; the payee turns the
        newest one into tokens whenever it likes. What is not vouched for goes back to the payer, after a time of
        grace in which the payee can still claim.
@dev A channel's id is the hash of its configuration, so one storage word holds all there is to store: deposit (96
     bits), claimed (96 bits), close time (64 bits). No owner, no upgrade.
     A closed channel stays closed: its vouchers cannot come to life again by new funds.
"""

from ethereum.ercs import IERC20

event Funded:
    id: indexed(bytes32)
    payer: indexed(address)
    payee: indexed(address)
    signer: address
    grace: uint64
    salt: bytes32
    deposit: uint128  # in all, after this

event Claimed:
    id: indexed(bytes32)
    payer: indexed(address)
    payee: indexed(address)
    paid: uint128  # now
    claimed: uint128  # in all

event CloseRequested:
    id: indexed(bytes32)
    payer: indexed(address)
    payee: indexed(address)
    at: uint64  # from when on it can be closed

event Closed:
    id: indexed(bytes32)
    payer: indexed(address)
    payee: indexed(address)
    refund: uint128

struct Config:
    payer: address
    payee: address
    signer: address  # whose vouchers count; may be a hot key, so that the payer's only funds
    grace: uint64  # seconds from requestClose to finalize
    salt: bytes32

struct State:
    deposit: uint128
    claimed: uint128
    closeAt: uint64  # 0: open; CLOSED: for good; else the time from which on anybody may close it

MAX_FUNDED: constant(uint256) = 200
MAX_CLAIMS: constant(uint256) = 100
MAX_STATES: constant(uint256) = 200
MAX_GRACE: constant(uint64) = 366 * 86_400  # a typing error must not lock the rest for a lifetime
PART: constant(uint256) = 2**96 - 1  # more than any sum of the token; BatchPayer has the same
CLOSED: constant(uint64) = max_value(uint64)

DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
DOMAIN_NAME: constant(bytes32) = keccak256("golemp2p channels")
DOMAIN_VERSION: constant(bytes32) = keccak256("1")
VOUCHER_TYPE: constant(bytes32) = keccak256("Voucher(bytes32 channelId,uint128 cumulative)")

TOKEN: immutable(IERC20)

# id -> deposit | claimed << 96 | closeAt << 192
words: HashMap[bytes32, uint256]


@deploy
def __init__(token: IERC20):
    TOKEN = token


# --- reading ----------------------------------------------------------------------------------------------------


@external
@view
def token() -> address:
    return TOKEN.address


@external
@pure
def channelId(config: Config) -> bytes32:
    return self._id(config)


@external
@view
def voucherDigest(id: bytes32, cumulative: uint128) -> bytes32:
    """
    @notice What the signer signs (EIP-712).
    """
    return self._digest(self._domain(), id, cumulative)


@external
@view
def state(id: bytes32) -> State:
    return self._state(id)


@external
@view
def states(ids: DynArray[bytes32, MAX_STATES]) -> DynArray[State, MAX_STATES]:
    found: DynArray[State, MAX_STATES] = []
    for id: bytes32 in ids:
        found.append(self._state(id))
    return found


# --- the payer --------------------------------------------------------------------------------------------------


@external
def fundMany(
    payees: DynArray[address, MAX_FUNDED],
    amounts: DynArray[uint128, MAX_FUNDED],
    signer: address,
    grace: uint64,
    salt: bytes32,
):
    """
    @notice Open or top up the caller's channels with these payees.
    @dev Reverts for a channel that is closing or closed.
    """
    assert len(payees) == len(amounts), "lengths differ"
    assert signer != empty(address), "no signer"
    assert grace <= MAX_GRACE, "grace too long"
    total: uint256 = 0
    for i: uint256 in range(len(payees), bound=MAX_FUNDED):
        payee: address = payees[i]
        assert payee != empty(address), "no payee"
        id: bytes32 = self._id(Config(payer=msg.sender, payee=payee, signer=signer, grace=grace, salt=salt))
        word: uint256 = self.words[id]
        assert word >> 192 == 0, "channel closing"
        deposit: uint256 = (word & PART) + convert(amounts[i], uint256)
        assert deposit <= PART, "deposit too large"
        self.words[id] = (word & (PART << 96)) | deposit
        total += convert(amounts[i], uint256)
        log Funded(
            id=id,
            payer=msg.sender,
            payee=payee,
            signer=signer,
            grace=grace,
            salt=salt,
            deposit=convert(deposit, uint128),
        )
    assert extcall TOKEN.transferFrom(msg.sender, self, total), "pull failed"


@external
def requestClose(config: Config):
    """
    @notice Begin the time of grace. The payee can claim until somebody calls finalize after it.
    """
    assert msg.sender == config.payer, "not the payer"
    id: bytes32 = self._id(config)
    word: uint256 = self.words[id]
    assert word != 0, "no such channel"
    assert word >> 192 == 0, "channel closing"
    at: uint64 = convert(block.timestamp, uint64) + config.grace
    self.words[id] = word | (convert(at, uint256) << 192)
    log CloseRequested(id=id, payer=config.payer, payee=config.payee, at=at)


@external
def finalize(config: Config):
    """
    @notice Close it for good; what was not claimed goes back to the payer. The payee may at any time, anybody after
            the time of grace.
    """
    id: bytes32 = self._id(config)
    word: uint256 = self.words[id]
    assert word != 0, "no such channel"
    closeAt: uint256 = word >> 192
    assert closeAt != convert(CLOSED, uint256), "closed already"
    if msg.sender != config.payee:
        assert closeAt != 0 and block.timestamp >= closeAt, "too early"
    claimed: uint256 = (word >> 96) & PART
    refund: uint256 = (word & PART) - claimed
    # Nothing is left to claim: the deposit becomes what was claimed.
    self.words[id] = claimed | (claimed << 96) | (convert(CLOSED, uint256) << 192)
    log Closed(id=id, payer=config.payer, payee=config.payee, refund=convert(refund, uint128))
    if refund != 0:
        assert extcall TOKEN.transfer(config.payer, refund), "refund failed"


# --- the payee, or anybody for it -------------------------------------------------------------------------------


@external
def claim(config: Config, cumulative: uint128, signature: Bytes[65]) -> uint256:
    """
    @notice Pay config.payee what the voucher adds to what was claimed before, as far as the deposit reaches.
    @dev A stale voucher pays nothing and does not revert. The same voucher pays the rest after a top-up.
    """
    paid: uint256 = self._claim(self._domain(), config, cumulative, signature)
    self._pay(config.payee, paid)
    return paid


@external
def claimAll(
    configs: DynArray[Config, MAX_CLAIMS],
    cumulatives: DynArray[uint128, MAX_CLAIMS],
    signatures: DynArray[Bytes[65], MAX_CLAIMS],
) -> uint256:
    """
    @notice As claim, for many payers of one payee: one transfer.
    """
    assert len(configs) == len(cumulatives) and len(configs) == len(signatures), "lengths differ"
    domain: bytes32 = self._domain()
    payee: address = configs[0].payee
    paid: uint256 = 0
    for i: uint256 in range(len(configs), bound=MAX_CLAIMS):
        assert configs[i].payee == payee, "payees differ"
        paid += self._claim(domain, configs[i], cumulatives[i], signatures[i])
    self._pay(payee, paid)
    return paid


@external
def claimMany(
    configs: DynArray[Config, MAX_CLAIMS],
    cumulatives: DynArray[uint128, MAX_CLAIMS],
    signatures: DynArray[Bytes[65], MAX_CLAIMS],
) -> uint256:
    """
    @notice As claim, for many payees: for who collects the vouchers of others.
    """
    assert len(configs) == len(cumulatives) and len(configs) == len(signatures), "lengths differ"
    domain: bytes32 = self._domain()
    total: uint256 = 0
    for i: uint256 in range(len(configs), bound=MAX_CLAIMS):
        paid: uint256 = self._claim(domain, configs[i], cumulatives[i], signatures[i])
        self._pay(configs[i].payee, paid)
        total += paid
    return total


# --- inside -----------------------------------------------------------------------------------------------------


@internal
def _claim(domain: bytes32, config: Config, cumulative: uint128, signature: Bytes[65]) -> uint256:
    """
    @dev Books what the voucher adds and returns it; the caller pays it out. The books come before any transfer.
    """
    id: bytes32 = self._id(config)
    word: uint256 = self.words[id]
    claimed: uint256 = (word >> 96) & PART
    target: uint256 = min(convert(cumulative, uint256), word & PART)
    if target <= claimed:
        return 0
    assert len(signature) == 65, "bad signature"
    signer: address = ecrecover(
        self._digest(domain, id, cumulative),
        convert(slice(signature, 64, 1), uint256),
        convert(slice(signature, 0, 32), uint256),
        convert(slice(signature, 32, 32), uint256),
    )
    assert signer == config.signer and signer != empty(address), "bad signature"
    self.words[id] = (word & ~(PART << 96)) | (target << 96)
    log Claimed(
        id=id,
        payer=config.payer,
        payee=config.payee,
        paid=convert(target - claimed, uint128),
        claimed=convert(target, uint128),
    )
    return target - claimed


@internal
def _pay(payee: address, amount: uint256):
    if amount != 0:
        assert extcall TOKEN.transfer(payee, amount), "payment failed"


@internal
@view
def _state(id: bytes32) -> State:
    word: uint256 = self.words[id]
    return State(
        deposit=convert(word & PART, uint128),
        claimed=convert((word >> 96) & PART, uint128),
        closeAt=convert(word >> 192, uint64),
    )


@internal
@pure
def _id(config: Config) -> bytes32:
    return keccak256(abi_encode(config))


@internal
@view
def _domain() -> bytes32:
    return keccak256(abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, self))


@internal
@pure
def _digest(domain: bytes32, id: bytes32, cumulative: uint128) -> bytes32:
    return keccak256(concat(0x1901, domain, keccak256(abi_encode(VOUCHER_TYPE, id, cumulative))))
