"""What channels need of a chain: the contract is ours (by the hash of its code), and what it says, finally."""

from __future__ import annotations

from collections.abc import Sequence

from golemp2p.core.ids import Address
from golemp2p.core.payment.vouchers import ChannelState, VoucherDomain
from golemp2p.errors import PolicyError
from golemp2p.payment.channels import abi
from golemp2p.payment.channels.abi import ClaimedEvent
from golemp2p.payment.contracts import deployed_sha256
from golemp2p.payment.drivers.base import ChainDriver, WrongNetworkError

STATES_AT_ONCE = 200  # of the contract


class ChannelChain:
    """The channel contract of one network. The code is looked at once a run."""

    def __init__(self, driver: ChainDriver) -> None:
        contract = driver.network.channels
        if contract is None:
            raise PolicyError(
                f"network {driver.network.name} has no channel contract",
                hint="give its address in the network's profile (channels), or pay in mode batch",
            )
        self.driver = driver
        self.contract: Address = contract
        self.domain = VoucherDomain(driver.network.chain_id, contract)
        self._known = False

    async def check(self) -> None:
        """Raises WrongNetworkError when another program is at the contract's address; NetworkError."""
        if self._known:
            return
        network = self.driver.network
        if not await self.driver.has_code(self.contract, deployed_sha256("VoucherChannels", network.token)):
            raise WrongNetworkError(
                f"what is at {self.contract} on {network.name} is not golemp2p's channel contract of token"
                f" {network.token}",
                hint="see golemp2p/payment/contracts and protocols/contracts",
            )
        self._known = True

    async def states(self, ids: Sequence[bytes]) -> list[ChannelState]:
        """As of the final block. Raises NetworkError, WrongNetworkError."""
        await self.check()
        found: list[ChannelState] = []
        for start in range(0, len(ids), STATES_AT_ONCE):
            some = ids[start : start + STATES_AT_ONCE]
            answer = await self.driver.call(self.contract, abi.states_call(some), final=True)
            found += abi.read_states(answer, len(some))
        return found

    async def claims(self, channel_id: bytes, *, first: int, last: int) -> list[ClaimedEvent]:
        """Claims in blocks ``first`` to ``last``, in order."""
        logs = await self.driver.logs(self.contract, abi.claims_topics(channel_id), first=first, last=last)
        return [abi.read_claimed(log) for log in logs]
