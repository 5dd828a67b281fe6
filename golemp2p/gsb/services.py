"""Who serves which name. A name bound by REST has one owner; gftp processes may share one, for equal content."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, GoneError, NotFoundError, PolicyError, UsageError
from golemp2p.gsb.channel import Channel, ChannelClosedError
from golemp2p.wire import gsb as wire

log = structlog.get_logger(__name__)
_NAME: Final = re.compile(r"/[\x21-\x7e]+")
_WRITE: Final = "UploadChunk"  # what arrives goes to the newest holder: results are for nobody but who waits for them
REPLACED: Final = "another socket took over this service"
DELETED: Final = "the service was deleted"


@dataclass(eq=False)
class Service:
    """A bound name. ``channel`` is None while no program is connected."""

    name: str
    components: tuple[str, ...]
    owner: str  # the app-key's name: other keys cannot take it over
    shared: bool = False  # others may bind the same name; its questions say which name they are for
    anybody: bool = False  # peers without an activity of ours may use it, too
    channel: Channel | None = None
    unbound: bool = False
    idle_since_s: float = field(default_factory=trio.current_time)
    upload: Any = None  # what golemp2p.gsb.files keeps of an upload under way
    _change: trio.Event = field(default_factory=trio.Event)

    @property
    def services_id(self) -> str:
        return base64.urlsafe_b64encode(self.name.encode()).decode().rstrip("=")

    def attach(self, channel: Channel) -> None:
        """``channel`` serves it from now on; an older one is closed, and what can be is asked again."""
        if self.unbound:  # while the socket was being opened
            channel.close(DELETED)
            return
        if self.channel is not None:
            self.channel.close(REPLACED, policy=True)
        self.channel = channel
        self._changed()

    def detach(self, channel: Channel) -> None:
        if self.channel is channel:
            self.channel, self.idle_since_s = None, trio.current_time()
            self._changed()

    def end(self) -> None:
        self.unbound = True
        if self.channel is not None and not self.shared:
            self.channel.close(DELETED)
        self._changed()

    async def call(self, component: str, payload: Mapping[str, Any], *, repeatable: bool) -> wire.Value:
        """Ask the program, waiting for its socket. ``repeatable``: may be asked again when a socket breaks over it.

        Raises RemoteError (the program's own), DeadlineError, NetworkError, GoneError (the service was deleted),
        PolicyError (no such component).
        """
        if self.components and component not in self.components:
            raise PolicyError(f"{self.name} does not serve {component}")
        while True:
            channel = await self._connected()
            try:
                return await channel.ask(component, payload, on=self.name if self.shared else "")
            except ChannelClosedError as exc:
                if self.unbound:
                    raise self._gone() from exc
                if self.shared or (exc.sent and not repeatable):
                    raise
                self.detach(channel)  # whoever closed it may not have come to that yet

    async def _connected(self) -> Channel:
        with trio.move_on_after(limits.GSB_SOCKET_WAIT_S):
            while not self.unbound:
                if self.channel is not None:
                    return self.channel
                await self._change.wait()
        if self.unbound:
            raise self._gone()
        raise DeadlineError(f"no program connected to {self.name} within {limits.GSB_SOCKET_WAIT_S:g} s")

    def _gone(self) -> GoneError:
        return GoneError(f"{self.name} is not served any more", hint="the requestor's program withdrew it")

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()


class Services:
    """All names bound at this node."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Service]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def bind(
        self, name: str, components: Sequence[str], *, owner: str, shared: bool = False, anybody: bool = False
    ) -> Service:
        """Raises UsageError (taken, malformed), PolicyError (too many)."""
        if len(name) > limits.GSB_NAME_CHARS or not _NAME.fullmatch(name):
            raise UsageError(f"{name[:80]!r} is no service name", hint="/public/gftp/<id>")
        if len(components) > limits.GSB_MAX_COMPONENTS:
            raise UsageError(f"{len(components)} components", hint=f"at most {limits.GSB_MAX_COMPONENTS}")
        self._forget_orphans()
        others = self._by_name.get(name, [])
        writing = any(_WRITE in each for each in (components, *(other.components for other in others)))
        if any(not (other.shared and shared) or (writing and other.owner != owner) for other in others):
            raise UsageError(f"{name} is bound already", hint="delete it first, or take another name")
        if len(self) >= limits.GSB_MAX_SERVICES:
            raise PolicyError(f"there are {limits.GSB_MAX_SERVICES} services already")
        service = Service(name, tuple(components), owner, shared=shared, anybody=anybody)
        self._by_name.setdefault(name, []).append(service)
        return service

    def find(self, services_id: str, owner: str) -> Service:
        """What ``owner`` bound by REST. Raises NotFoundError."""
        try:
            name = base64.urlsafe_b64decode(services_id + "=" * (-len(services_id) % 4)).decode()
        except ValueError:
            raise UsageError(
                f"{services_id[:80]!r} is no id of a service", hint="servicesId of POST /services"
            ) from None
        for service in self._by_name.get(name, ()):
            if service.owner == owner and not service.shared:
                return service
        raise NotFoundError(f"there is no service {name[:80]!r}")

    def unbind(self, service: Service) -> None:
        """Idempotent. Whoever waits for it gets GoneError."""
        holders = self._by_name.get(service.name, [])
        if service in holders:
            holders.remove(service)
            if not holders:
                del self._by_name[service.name]
            service.end()

    def serving(self, name: str) -> list[Service]:
        """Who serves it, the newest last."""
        return list(self._by_name.get(name, ()))

    def _forget_orphans(self) -> None:
        """Of programs that went without a word. Names are looked at when one is bound: nothing else makes them more."""
        oldest_s = trio.current_time() - limits.GSB_ORPHAN_S
        for service in list(itertools.chain.from_iterable(self._by_name.values())):
            if service.channel is None and service.idle_since_s < oldest_s:
                log.info("gsb_service_forgotten", service=service.name)
                self.unbind(service)
