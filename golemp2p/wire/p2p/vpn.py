"""Bodies of ``/golemp2p/network/1`` and headers of ``/golemp2p/tunnel/1`` (protocols/tunnel.md)."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from golemp2p import limits

NETWORK_PROTOCOL: Final = "/golemp2p/network/1"
TUNNEL_PROTOCOL: Final = "/golemp2p/tunnel/1"

Id32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Ip = Annotated[str, Field(pattern=r"^\d{1,3}(\.\d{1,3}){3}$")]
Node = Annotated[str, Field(pattern=r"^0x[0-9a-f]{40}$")]
Peer = Annotated[str, Field(max_length=64)]


class Message(BaseModel):
    """Unknown keys are ignored, so that a later version can add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class NetworkRef(Message):
    """``members``: a provider asks the owner who is in its network."""

    network: Id32


class MemberBody(Message):
    """``peer`` is empty while the owner does not know it."""

    ip: Ip
    node: Node
    peer: Peer = ""


class Members(Message):
    """Answer of ``members``; body of ``update``, by which the owner tells of changes. No nodes: the network is over."""

    network: Id32
    version: Annotated[int, Field(ge=0, le=2**53)]
    nodes: Annotated[list[MemberBody], Field(max_length=limits.MAX_VPN_NODES)]


class PacketsHeader(Message):
    """The stream carries packets of this network."""

    mode: Literal["packets"] = "packets"
    owner: Peer
    network: Id32


class ConnectHeader(Message):
    """The stream becomes a TCP connection to a port of an activity; only from the network's owner."""

    mode: Literal["connect"] = "connect"
    network: Id32
    ip: Ip
    port: Annotated[int, Field(ge=1, le=65_535)]
