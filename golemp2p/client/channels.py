"""Voucher channels of the node."""

from __future__ import annotations

from golemp2p.client.session import POLL_SLACK_S, Session
from golemp2p.wire.rest import channels as rest

_PREFIX = "/golemp2p/v1/payment"


class ChannelsApi:
    """Amounts are decimal strings in the token."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def channels(self, *, closed: bool = False) -> list[rest.Channel]:
        found = await self._session.request("GET", f"{_PREFIX}/channels", params={"closed": closed})
        return [rest.Channel.model_validate(channel) for channel in found]

    async def close(self, channel: str) -> None:
        """Ask for the rest back. Raises NotFoundError, PolicyError (not the owner's key)."""
        await self._session.request("POST", f"{_PREFIX}/channels/{channel}/close")

    async def claim(self, channel: str) -> None:
        """Raises NotFoundError, UsageError (nothing to claim), PolicyError, NetworkError."""
        await self._session.request("POST", f"{_PREFIX}/channels/{channel}/claim")

    async def refusal(self, agreement: str, *, timeout_s: float) -> str:
        """Why a provider should not work under it; "" when it may. Waits for a deposit to become final."""
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/agreements/{agreement}/channel",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return rest.ChannelVerdict.model_validate(found).refusal

    async def cover(self, agreement: str) -> rest.ChannelCover:
        found = await self._session.request("GET", f"{_PREFIX}/agreements/{agreement}/cover")
        return rest.ChannelCover.model_validate(found)
