"""Runtime "vm", backend docker: one hardened container per activity, kept until its end; `run` starts processes in it.

The container's main process is our guest agent (runtimes.guest), bind-mounted read-only, so that any image will do,
also an empty one. It starts the payload's processes and streams their output over the container's stdin and stdout:
a run costs milliseconds, ends with the process (not with its pipes), and needs no exec call of the engine. When the
node dies the agent's stdin closes, it leaves, and the container ends with it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import resource
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from golemp2p import __version__, limits
from golemp2p.images.model import labelled_volumes
from golemp2p.runtimes.base import Deployment, Probe, RuntimeFailureError
from golemp2p.runtimes.docker.engine import Engine, EngineError, find_engine
from golemp2p.runtimes.docker.images import EngineImages
from golemp2p.runtimes.docker.instance import WORK, DockerInstance, Machine
from golemp2p.runtimes.docker.seeds import VolumeSeeds
from golemp2p.runtimes.docker.trial import trial_image
from golemp2p.runtimes.docker.workvolume import drop_all, drop_volume, make_volume
from golemp2p.runtimes.guest.build import agent_binary
from golemp2p.runtimes.link import host_names
from golemp2p.runtimes.probing import drop_dead_probes, probe_with_network
from golemp2p.runtimes.seeding import Room

log = structlog.get_logger(__name__)

LABEL: Final = "golemp2p.node"
ACTIVITY: Final = "golemp2p.activity"
AGENT: Final = "/.golemp2p-agent"
INSTALL: Final = "install Docker (Debian: apt install docker.io) or podman, or set vm.engine to where it listens"
# For the agent alone, until it has made the devices; before any payload starts it gives up all but NET_RAW, which the
# ping of busybox needs where the payload is root.
AGENT_CAPABILITIES: Final = ("NET_ADMIN", "NET_RAW", "SETUID", "SETGID", "SETPCAP")
NET_RAW: Final = 1 << 13
# What engines usually leave to a container's root, less MKNOD, and NET_RAW where there is no network; by number.
USUAL_CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
NETWORK_RIGHTS: Final = {
    "devices": ["/dev/net/tun:/dev/net/tun:rw"],
    "sysctls": {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"},
}
RUNTIME_ISOLATION: Final = (("runsc", "gvisor"), ("gvisor", "gvisor"), ("kata", "microvm"))


@dataclass(frozen=True)
class DockerSettings:
    """``engine``: its URL, else DOCKER_HOST and the usual sockets. ``oci_runtime``: runsc, kata … as the engine has it.

    ``run_as``: uid[:gid] for all payloads instead of the image's user (of the node's, when that is not root). ``pull``:
    prefixes of registry references that may be pulled (by digest). ``capabilities``: "usual" leaves root in a container
    what engines usually leave it, which servers such as nginx and sshd need.
    """

    engine: str = ""
    oci_runtime: str = ""
    run_as: str = ""
    read_only_root: bool = False
    pull: tuple[str, ...] = ()
    capabilities: str = "none"


class DockerRuntime:
    """``cache_dir`` holds the compiled agent; ``work_root`` names this node in labels, mounts are left below it."""

    def __init__(self, settings: DockerSettings, cache_dir: Path, work_root: Path) -> None:
        self._settings = settings
        self._cache_dir = cache_dir
        self._work_root = work_root
        self._owner = hashlib.sha256(str(work_root.resolve()).encode()).hexdigest()[:24]
        self._engine: Engine | None = None
        self._mounts = True  # whether volumes can have a file system of their own; root may try again and again
        self._alive: set[str] = set()  # activities
        self._stale = False  # something of ours may be left at the engine
        self._images = EngineImages(settings.pull)
        self._seeds = VolumeSeeds(self._be_stale)
        self._networks: list[str] = []  # capabilities that a trial has found

    @property
    def id(self) -> str:
        return "vm/docker"

    @property
    def name(self) -> str:
        return "vm"

    @property
    def version(self) -> str:
        return __version__

    @property
    def isolation(self) -> str:
        """The rung, by the engine's runtime."""
        name = self._settings.oci_runtime.lower()
        return next((rung for part, rung in RUNTIME_ISOLATION if part in name), "container")

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        further = [*(["pull"] if self._settings.pull else []), *self._networks]
        return {
            "golem.runtime.name": self.name,
            "golem.runtime.version": self.version,
            "golem.runtime.capabilities": ["oci", "gvmi", "connect", "manifest-support", *further],
            "golem.!exp.golemp2p.backend": "docker",
            "golem.!exp.golemp2p.isolation": self.isolation,
        }

    async def probe(self) -> Probe:
        """Start a container of an image that holds nothing but our agent."""
        try:
            engine = self._find()
            facts = await engine.info()
            agent = await trio.to_thread.run_sync(agent_binary, self._cache_dir)
        except RuntimeFailureError as exc:
            return Probe(False, exc.message, exc.hint or INSTALL)
        known = facts.get("Runtimes") or {}
        if (wanted := self._settings.oci_runtime) and wanted not in known:
            return Probe(False, f"the engine has no runtime {wanted!r}, only {sorted(known)}", "vm.oci_runtime")
        image = await trio.to_thread.run_sync(trial_image, agent)
        found, self._networks = await probe_with_network(self, image, AGENT, "score")
        return found

    async def clean_up(self) -> None:
        """Containers and mounts of a node that was killed; images beyond the budget."""
        await trio.to_thread.run_sync(drop_all, self._work_root)
        await trio.to_thread.run_sync(drop_dead_probes, drop_volume)
        try:
            engine = self._find()
            await self._sweep(engine)
            await self._images.evict(engine)
        except RuntimeFailureError as exc:  # no engine now: there is nothing left running either
            self._stale = True
            log.info("engine_not_cleaned", error=str(exc))

    async def _sweep(self, engine: Engine, spared: Collection[str] = ()) -> None:
        """Remove our containers but those of the activities ``spared``."""
        for container, labels in await engine.labelled(f"{LABEL}={self._owner}"):
            if labels.get(ACTIVITY) not in spared:
                log.warning("container_left_behind", container=container[:12])
                await engine.remove(container)
        self._stale = False

    async def deploy(self, deployment: Deployment) -> DockerInstance:
        if deployment.deterministic:
            raise RuntimeFailureError("a container's results are not repeatable", hint="use runtime wasmtime")
        engine = self._find()
        self._alive.add(deployment.activity_id)
        try:
            if self._stale:
                await self._sweep(engine, self._alive)
            return await self._deploy(engine, deployment)
        except BaseException:  # cancellation above all: there is no instance that could be terminated
            self._alive.discard(deployment.activity_id)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(drop_volume, deployment.work_dir)
            raise

    def _be_stale(self) -> None:
        self._stale = True

    def _ended(self, activity_id: str, removed: bool) -> None:
        self._alive.discard(activity_id)
        self._stale = self._stale or not removed

    async def _deploy(self, engine: Engine, deployment: Deployment) -> DockerInstance:
        agent = await trio.to_thread.run_sync(agent_binary, self._cache_dir)
        async with self._images.wanted(engine, deployment) as image:
            return await self._contain(engine, deployment, image, agent)

    async def _contain(
        self, engine: Engine, deployment: Deployment, image: Mapping[str, Any], agent: Path
    ) -> DockerInstance:
        config = image["Config"] or {}
        # The agent is run by the container's user, which need not be ours.
        shared = deployment.work_dir / "agent"
        await trio.to_thread.run_sync(_copy_agent, agent, shared)
        volumes = await self._volumes(deployment, [*_image_volumes(config), *deployment.volumes])
        labels = {LABEL: self._owner, ACTIVITY: deployment.activity_id}
        room = Room(deployment.limits.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES)
        seed = partial(self._seeds.fill, engine, image, volumes, labels, room)
        binds = {str(host): {"bind": guest, "mode": "rw"} for guest, host in volumes.items()}
        binds[str(shared)] = {"bind": AGENT, "mode": "ro"}
        user = await self._user(engine, config)
        networked = deployment.networks or deployment.outbound is not None
        container = await engine.create(
            image=image["Id"],
            entrypoint=[AGENT],
            command=["serve"],
            hostname=deployment.hostname or "golem",
            user="0:0" if networked else user,  # the agent becomes that user when the devices are made
            working_dir=config.get("WorkingDir") or "/",  # made by the engine where the image has it not
            environment={},
            stdin_open=True,
            labels=labels,
            healthcheck={"test": ["NONE"]},
            stop_signal="SIGKILL",
            host=self._host_config(deployment, binds),
        )
        env = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
        machine = Machine(engine, container, volumes, env, config.get("WorkingDir") or WORK, seed, user, self._kept())
        return DockerInstance(deployment, machine, partial(self._ended, deployment.activity_id))

    async def _user(self, engine: Engine, config: Mapping[str, Any]) -> str:
        """The owner's wish, else the image's. A node that is not root's takes its own user: other users' files in the
        volumes it could neither count nor remove. A rootless engine calls our user root.
        """
        if self._settings.run_as or os.geteuid() == 0:
            return self._settings.run_as or config.get("User") or ""
        options = (await engine.info()).get("SecurityOptions") or ()
        return "0:0" if any("rootless" in str(option) for option in options) else f"{os.geteuid()}:{os.getegid()}"

    def _kept(self) -> int:
        """Capabilities of root in a container with networks, when the agent is done."""
        usual = self._settings.capabilities == "usual"
        return NET_RAW | (sum(1 << bit for bit in USUAL_CAPABILITIES.values()) if usual else 0)

    def _host_config(self, deployment: Deployment, binds: Mapping[str, Any]) -> dict[str, Any]:
        """Hardened: no network, no capability but the owner's wish, no new privilege, the engine's seccomp profile,
        bounded everything.
        """
        agreed = deployment.limits
        memory_bytes = agreed.memory_bytes or limits.DEFAULT_GUEST_MEMORY_BYTES
        storage_bytes = agreed.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES
        host: dict[str, Any] = {
            "binds": binds,
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "mem_limit": memory_bytes,
            "memswap_limit": memory_bytes,
            "pids_limit": agreed.processes or limits.MAX_GUEST_PROCESSES,
            "ulimits": _ulimits(storage_bytes),
            "log_config": {"type": "none"},
            "read_only": self._settings.read_only_root,
            "restart_policy": {"Name": "no"},
            "oom_score_adj": 500,  # the kernel takes a payload before the node
        }
        if names := host_names(deployment.hostname, deployment.hosts, deployment.networks):
            host["extra_hosts"] = names
        granted = list(USUAL_CAPABILITIES) if self._settings.capabilities == "usual" else []
        if deployment.networks or deployment.outbound is not None:
            host |= NETWORK_RIGHTS
            granted += [name for name in AGENT_CAPABILITIES if name not in granted]
        if granted:
            host["cap_add"] = granted
        if deployment.outbound is not None:
            host["dns"] = [str(deployment.outbound.resolver)]
            host["dns_search"] = ["."]  # none: the host's own is nobody's business
        if self._settings.read_only_root:
            host["tmpfs"] = {"/tmp": "", "/run": ""}  # noqa: S108 - in the container
        if agreed.cpus is not None:
            host["nano_cpus"] = int(min(agreed.cpus, os.cpu_count() or 1) * 1e9)  # engines refuse more
        if self._settings.oci_runtime:
            host["runtime"] = self._settings.oci_runtime
        return host

    async def _volumes(self, deployment: Deployment, guests: Sequence[str]) -> dict[str, Path]:
        root = deployment.work_dir / "volumes"
        if self._mounts:
            size_bytes = deployment.limits.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES
            try:
                await trio.to_thread.run_sync(make_volume, deployment.work_dir, size_bytes)
            except RuntimeFailureError as exc:
                self._mounts = os.geteuid() == 0
                log.info("volumes_without_quota", error=str(exc), hint="only the once-a-second disk watch bounds them")
        return await trio.to_thread.run_sync(_make_directories, root, tuple(dict.fromkeys(guests)))

    def _find(self) -> Engine:
        if self._engine is None:
            url = self._settings.engine or find_engine()
            if url is None:
                raise EngineError("there is no container engine on this machine", hint=INSTALL)
            self._engine = Engine(url)
        return self._engine


def _ulimits(file_bytes: int) -> list[dict[str, Any]]:
    """Never above what the host permits: an engine without CAP_SYS_RESOURCE could not start the container."""

    def clamp(kind: int, wanted: int) -> int:
        hard = resource.getrlimit(kind)[1]
        return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)

    wanted = {
        "nofile": clamp(resource.RLIMIT_NOFILE, limits.CONTAINER_OPEN_FILES),
        # Counted by the kernel over all processes of that user on the host; pids_limit is the payload's own.
        "nproc": clamp(resource.RLIMIT_NPROC, limits.GUEST_NPROC),
        "fsize": clamp(resource.RLIMIT_FSIZE, file_bytes),
        "core": 0,
    }
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in wanted.items()]


def _image_volumes(config: Mapping[str, Any]) -> list[str]:
    """WORK and what the image wants, as plain absolute paths. Raises RuntimeFailureError for what cannot be.

    None may be left to the engine: it would make a directory of its own for it, without any limit of size.
    """
    wanted = [*(config.get("Volumes") or {}), *labelled_volumes(config.get("Labels") or {})]
    if len(wanted) > limits.MAX_VOLUMES:
        raise RuntimeFailureError(f"the image has {len(wanted)} volumes", hint=f"at most {limits.MAX_VOLUMES}")
    for path in wanted:
        parts = path.split("/")
        if not path.startswith("/") or ".." in parts or ":" in path or not any(part not in ("", ".") for part in parts):
            raise RuntimeFailureError(f"the image wants the volume {path[:200]!r}, which is no plain absolute path")
    return [WORK, *("/" + posixpath.normpath(path).lstrip("/") for path in wanted)]


def _make_directories(root: Path, guests: Sequence[str]) -> dict[str, Path]:
    root.mkdir(mode=0o700, exist_ok=True)
    # Whatever user the image runs as must get through and may write; nobody outside gets into work_dir.
    root.chmod(0o711)
    made: dict[str, Path] = {}
    for number, guest in enumerate(guests):
        host = made[guest] = root / str(number)
        host.mkdir()
        host.chmod(0o777)
    return made


def _copy_agent(agent: Path, target: Path) -> None:
    target.write_bytes(agent.read_bytes())
    target.chmod(0o555)
