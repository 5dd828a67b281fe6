"""The runtimes of a node and what came of trying them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import trio

from golemp2p import limits
from golemp2p.runtimes.base import Probe, Runtime


class Runtimes(Mapping[str, Runtime]):
    """Runtimes by id. Each is tried when somebody first wants to know; one that failed again, after a while."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = dict(runtimes)
        self._probes: dict[str, Probe] = {}
        self._failed_at: dict[str, float] = {}
        self._probing = {name: trio.Lock() for name in self._runtimes}

    def __getitem__(self, name: str) -> Runtime:
        return self._runtimes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runtimes)

    def __len__(self) -> int:
        return len(self._runtimes)

    def probed(self, name: str) -> Probe | None:
        """The verdict, if there is one already."""
        return self._probes.get(name)

    async def probe(self, name: str) -> Probe:
        """Try it, unless somebody did. KeyError for an unknown one."""
        async with self._probing[name]:
            known = self._probes.get(name)
            if known is None or (
                not known.works and trio.current_time() >= self._failed_at[name] + limits.PROBE_AGAIN_S
            ):
                known = self._probes[name] = await self._runtimes[name].probe()
                self._failed_at[name] = trio.current_time()
            return known

    async def clean_up(self) -> None:
        """Remove what a killed node left, all runtimes at once."""
        async with trio.open_nursery() as nursery:
            for runtime in self._runtimes.values():
                nursery.start_soon(runtime.clean_up)
