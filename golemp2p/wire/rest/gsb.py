"""Bodies of ``/gsb-api/v1/services`` (yagna's shapes)."""

from __future__ import annotations

from pydantic import Field

from golemp2p.wire.rest.base import RestModel


class Listen(RestModel):
    """The name that a program serves, and what can be asked of it."""

    on: str
    components: list[str]


class NewService(RestModel):
    listen: Listen


class ServiceBody(RestModel):
    """``servicesId`` names the socket: ``/gsb-api/v1/services/{servicesId}``."""

    listen: Listen
    services_id: str = Field(alias="servicesId")


class RemoteFile(RestModel):
    """A file at another node."""

    url: str


class RemoteSlot(RestModel):
    """A place at another node, and the file of ours that goes there."""

    url: str
    sha3_256: str = Field(alias="sha3_256")
