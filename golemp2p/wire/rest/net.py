"""Bodies of net-api (yagna's shapes)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from golemp2p.wire.rest.base import RestModel

_IP = Annotated[str, Field(max_length=64, examples=["192.168.0.2"])]


class NewNetwork(RestModel):
    """``ip`` may carry a prefix; ``mask`` wins over it."""

    ip: Annotated[str, Field(max_length=64, examples=["192.168.0.0/24"])]
    mask: Annotated[str | None, Field(max_length=64, examples=["255.255.255.0"])] = None
    gateway: _IP | None = None


class NetworkBody(RestModel):
    """``ip`` with prefix."""

    id: str
    ip: str
    mask: str
    gateway: str


class AddressBody(RestModel):
    """An address of the requestor's own; in answers with prefix, as yagna has it."""

    ip: _IP


class NodeBody(RestModel):
    """``id`` is the node's Ethereum address."""

    id: Annotated[str, Field(max_length=64, examples=["0x2f1b1a3b6a1c4f2b0d7c5e8a9f0b1c2d3e4f5a6b"])]
    ip: _IP


class ConnectionBody(RestModel):
    """One that a client has open now. The local port is only a number that tells connections apart."""

    protocol: int
    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int
