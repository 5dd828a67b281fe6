"""What the parts of the channel service share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from golemp2p.payment.channels.chain import ChannelChain
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.ports import Context, News, Rpc
from golemp2p.storage.channels import Channel


class Watch(Protocol):
    async def look(self, platform: str, ids: Sequence[str]) -> list[Channel]:
        """Channels as the chain finally has them now, claims booked. Raises NetworkError, WrongNetworkError."""
        ...

    async def look_again(self, channels: Sequence[Channel]) -> None:
        """At those that were not looked at just now. Raises as :meth:`look`."""
        ...


@dataclass
class Parts:
    """``news``: a channel changed, or is to be looked at."""

    context: Context
    rpc: Rpc
    settings: ChannelSettings
    news: News = field(default_factory=News)
    _chains: dict[str, ChannelChain] = field(default_factory=dict)
    _watch: Watch | None = None

    @property
    def watch(self) -> Watch:
        assert self._watch is not None, "the channel service is not put together"
        return self._watch

    @watch.setter
    def watch(self, watch: Watch) -> None:
        self._watch = watch

    def chain(self, platform: str) -> ChannelChain:
        """Raises UsageError (no such platform), PolicyError (its network has no channel contract)."""
        if platform not in self._chains:
            self._chains[platform] = ChannelChain(self.context.driver(platform))
        return self._chains[platform]
