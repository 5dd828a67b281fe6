"""Bodies of ``/golemp2p/v1/files`` and ``/slots`` (ours)."""

from __future__ import annotations

from pydantic import Field

from golemp2p import limits
from golemp2p.wire.rest.base import RestModel


class FileBody(RestModel):
    """A file of the node's content store; ``url`` is what a provider's ``transfer`` reads."""

    url: str
    sha3_256: str = Field(alias="sha3_256")
    sha256: str
    size: int


class NewSlot(RestModel):
    max_bytes: int = Field(default=limits.MAX_REST_FILE_BYTES, gt=0, le=limits.MAX_REST_FILE_BYTES)


class SlotBody(RestModel):
    """A place for one file to come; ``url`` is what a provider's ``transfer`` writes."""

    slot: str
    url: str


class ImageInfo(RestModel):
    """Of the image registry, as Golem's: ``sha3`` is the file's sha3-224, ``size`` in bytes.

    ``http`` and ``https`` are one URL of this node, which has no TLS of its own.
    """

    http: str
    https: str
    sha3: str
    size: int
