"""Which runtimes this node has, by its settings, and what came of trying them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Final

import trio

from golemp2p.config import Settings
from golemp2p.locations import Locations
from golemp2p.runtimes.base import Probe, Runtime

BUILT_IN: Final = ("wasmtime", "vm/docker", "vm/qemu")


class Runtimes(Mapping[str, Runtime]):
    """Runtimes by id. Each is tried once, when somebody first wants to know."""

    def __init__(self, runtimes: Mapping[str, Runtime]) -> None:
        self._runtimes = dict(runtimes)
        self._probes: dict[str, Probe] = {}
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
            if name not in self._probes:
                self._probes[name] = await self._runtimes[name].probe()
            return self._probes[name]

    async def clean_up(self) -> None:
        """Remove what a killed node left, all runtimes at once."""
        async with trio.open_nursery() as nursery:
            for runtime in self._runtimes.values():
                nursery.start_soon(runtime.clean_up)


def make_runtimes(settings: Settings, locations: Locations) -> Runtimes:
    """Those that the provider section names. Raises UsageError for one that there is not."""
    ids = dict.fromkeys(resolve_id(name, settings) for name in settings.provider.runtimes)
    return Runtimes({name: make_runtime(name, settings, locations) for name in ids})


def known_ids(settings: Settings) -> tuple[str, ...]:
    """Built in, installed by others (entry points), and configured."""
    from golemp2p.runtimes.custom import installed

    return tuple(dict.fromkeys([*BUILT_IN, *installed(), *settings.runtime]))


def resolve_id(name: str, settings: Settings) -> str:
    """``vm`` is the backend that this machine can have: a container engine before qemu."""
    if name != "vm":
        return name
    if settings.vm.engine or _engine_there() or shutil.which("qemu-system-x86_64") is None:
        return "vm/docker"
    return "vm/qemu"


def _engine_there() -> bool:
    from golemp2p.runtimes.docker.engine import find_engine

    return find_engine() is not None


def make_runtime(name: str, settings: Settings, locations: Locations) -> Runtime:
    """One runtime by its id; nothing is started. Raises UsageError."""
    match name:
        case "wasmtime":
            from golemp2p.runtimes.wasm.runtime import WasmRuntime

            return WasmRuntime(locations.modules)
        case "vm/docker":
            from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings

            vm = settings.vm
            docker = DockerSettings(vm.engine, vm.oci_runtime, vm.run_as, vm.read_only_root, tuple(vm.pull))
            return DockerRuntime(docker, locations.guests, locations.work)
        case "vm/qemu":
            from golemp2p.runtimes.qemu.runtime import QemuRuntime

            return QemuRuntime(locations.guests, accel=settings.vm.accel, kernel=settings.vm.kernel or None)
        case _:
            from golemp2p.runtimes.custom import load_custom

            return load_custom(name, settings.runtime.get(name, {}), locations.cache, locations.work)
