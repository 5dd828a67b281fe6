"""Which runtimes this node has, by its settings."""

from __future__ import annotations

import shutil
from typing import Final

from golemp2p.config import Settings
from golemp2p.locations import Locations
from golemp2p.runtimes.base import Runtime
from golemp2p.runtimes.probed import Runtimes

BUILT_IN: Final = ("wasmtime", "vm/docker", "vm/qemu")


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
            docker = DockerSettings(
                vm.engine, vm.oci_runtime, vm.run_as, vm.read_only_root, tuple(vm.pull), vm.capabilities
            )
            return DockerRuntime(docker, locations.guests, locations.work)
        case "vm/qemu":
            from golemp2p.runtimes.qemu.runtime import QemuRuntime

            return QemuRuntime(locations.guests, accel=settings.vm.accel, kernel=settings.vm.kernel or None)
        case _:
            from golemp2p.runtimes.custom import load_custom

            return load_custom(name, settings.runtime.get(name, {}), locations.cache, locations.work)
