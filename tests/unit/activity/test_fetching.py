"""Fetching packages: who waits for whom."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from golemp2p.activity.transfers import Transfers
from golemp2p.core.ids import PeerId
from tests.unit.activity.test_transfers import AGREEMENT

DIGEST = "ab" * 32


@dataclass
class File:
    path: Path = Path("x")
    sha256: str = ""
    size_bytes: int = 1


class Store:
    """Holds the file from the moment on that somebody has fetched it."""

    held: File | None = None

    def lookup(self, _alg: str, _digest: str) -> File | None:
        return self.held

    async def add_file(self, _source: Path, *, also: tuple[str, ...] = ()) -> File:
        raise AssertionError(also)


class Data:
    def __init__(self, store: Store, takes_s: dict[PeerId, float]) -> None:
        self.fetches: list[PeerId] = []
        self._store = store
        self._takes_s = takes_s

    async def fetch(self, peer: PeerId, *_: Any, **__: Any) -> File:
        self.fetches.append(peer)
        await trio.sleep(self._takes_s[peer])
        self._store.held = File()
        return self._store.held

    async def push(self, *_: Any, **__: Any) -> str:
        raise AssertionError

    async def fetch_named(self, *_: Any, **__: Any) -> None:
        raise AssertionError


SLOW, QUICK = PeerId("slow"), PeerId("quick")


async def test_a_requestor_that_sends_slowly_holds_up_nobody_else(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    store, fetching = Store(), dict[tuple[PeerId, str], trio.Lock]()
    data = Data(store, {SLOW: 3_000.0, QUICK: 1.0})
    ended_s: dict[str, float] = {}
    slow, quick, second = (
        Transfers(replace(AGREEMENT, requestor=peer), store, data, fetching=fetching, staging=tmp_path)
        for peer in (SLOW, QUICK, QUICK)
    )

    async def fetch(name: str, transfers: Transfers) -> None:
        await transfers._fetch(DIGEST, None)
        ended_s[name] = trio.current_time()

    start_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, "slow", slow)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(fetch, "quick", quick)
        nursery.start_soon(fetch, "second", second)
    assert ended_s["quick"] - start_s < 2
    assert ended_s["second"] - start_s < 2
    assert sorted(data.fetches) == [QUICK, SLOW]  # the second of one peer found it in the store
    assert fetching == {}


class Shelf:
    """A store with one image."""

    def __init__(self, alg: str, digest: str, path: Path) -> None:
        self._key, self._path = (alg, digest), path

    def lookup(self, alg: str, digest: str) -> File | None:
        return File(self._path) if (alg, digest) == self._key else None

    async def add_file(self, _source: Path, *, also: tuple[str, ...] = ()) -> File:
        raise AssertionError(also)


async def test_a_substitute_of_a_test_network_runs_instead_of_a_package_that_cannot_be_had(tmp_path: Path) -> None:
    named, image = "9a" * 28, tmp_path / "image"
    image.write_bytes(b"what runs")
    digest = hashlib.sha3_224(b"what runs").hexdigest()
    demand = {**AGREEMENT.demand, "golem.srv.comp.task_package": f"hash:sha3:{named}:http://nowhere.invalid/x"}
    transfers = Transfers(
        replace(AGREEMENT, demand=demand),
        Shelf("sha3-224", digest, image),
        Data(Store(), {}),
        staging=tmp_path,
        substitutes={named: digest},
    )
    assert (await transfers.package()).path == image
