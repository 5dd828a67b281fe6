"""The simulated chain: payment.drivers' chain in memory with blocks at an even pace, without its history of states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from golemp2p.core.ids import Address
from golemp2p.core.money import parse_amount
from golemp2p.core.payment import Leg
from golemp2p.payment.drivers.fake import FakeChain
from golemp2p.payment.drivers.fakechain import Mined
from golemp2p.payment.networks import PaymentNetwork

TOKEN: Final = Address("0x" + "70" * 20)
NETWORK: Final = PaymentNetwork(
    "sim", 31337, TOKEN, "tglm", ("http://127.0.0.1:1",), confirmations=1, poll_s=2.0, rebroadcast_s=60.0
)
BLOCK_S: Final = 5.0


class SimChain(FakeChain):
    """No reorganisations, so that a block costs what is in it and not what all accounts have.

    ``on_leg(leg)`` hears of every transfer of tokens that a block has.
    """

    def __init__(self, on_leg: Callable[[Leg], None]) -> None:
        super().__init__(automine=False)
        self._on_leg = on_leg
        self._places: dict[str, tuple[int, Mined]] = {}
        self._hashes: dict[int, str] = {}

    def mine(self, blocks: int = 1) -> None:
        super().mine(blocks)
        self._before.clear()
        self.calls.clear()
        for number in range(len(self.blocks) - blocks, len(self.blocks)):
            for mined in self.blocks[number].mined:
                self._places[mined.tx.hash] = (number, mined)
                for leg in mined.legs:
                    self._on_leg(leg)

    def reorg(self, depth: int, *, forget: bool = True) -> None:
        raise NotImplementedError("the simulated chain keeps no earlier states")

    def block_hash(self, number: int) -> str:
        found = self._hashes.get(number)
        if found is None:
            found = self._hashes[number] = super().block_hash(number)
        return found

    def find(self, transaction: str) -> tuple[int, Mined] | None:
        return self._places.get(transaction)

    async def run(self) -> None:
        """A block every BLOCK_S in which something happens; none while the chain is down."""
        while True:
            await trio.sleep(BLOCK_S)
            if self.pooled and not self.down:
                self.mine()


def glm(text: str) -> int:
    return parse_amount(text)


__all__ = ["BLOCK_S", "NETWORK", "TOKEN", "SimChain", "glm"]
