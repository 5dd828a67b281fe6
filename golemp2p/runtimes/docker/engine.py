"""A Docker-compatible engine through the `docker` SDK: its calls block, so each runs in a worker thread.

Only what the runtime needs. Everything the SDK raises becomes :class:`EngineError` with the engine's own words.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import docker
import requests
import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError

T = TypeVar("T")

_ARCHIVE_BLOCK: Final = 1024 * 1024
SOCKETS: Final = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")


class EngineError(RuntimeFailureError):
    """The engine refused or does not answer."""

    code = "engine"


class TooLargeError(EngineError):
    """What was asked for is more than wanted."""


def find_engine() -> str | None:
    """Where an engine may listen: DOCKER_HOST, else the first of the usual sockets that exists."""
    if url := os.environ.get("DOCKER_HOST"):
        return url
    own = [f"{directory}/podman/podman.sock" for directory in [os.environ.get("XDG_RUNTIME_DIR")] if directory]
    return next((f"unix://{path}" for path in (*SOCKETS, *own) if Path(path).exists()), None)


class Engine:
    """One engine. ``url`` as DOCKER_HOST has it. Threads: at most ENGINE_CALLS_AT_ONCE calls at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._limiter = trio.CapacityLimiter(limits.ENGINE_CALLS_AT_ONCE)
        self._api: Any = None

    async def call(self, use: Callable[[Any], T], *, timeout_s: float = limits.ENGINE_CALL_TIMEOUT_S) -> T:
        """``use`` the SDK's low-level client in a thread. Raises EngineError.

        Cancelling abandons the thread: the engine ends the call by itself, or the client's timeout does.
        """

        def work() -> T:
            if self._api is None:
                self._api = docker.APIClient(self.url, timeout=limits.ENGINE_CALL_TIMEOUT_S, version="auto")
            return use(self._api)

        try:
            with trio.fail_after(timeout_s):
                return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise EngineError(f"the container engine did not answer within {timeout_s:g} s") from None
        except docker.errors.APIError as exc:
            raise EngineError(f"the container engine refused: {exc.explanation or exc}"[:800]) from None
        except (docker.errors.DockerException, requests.RequestException, OSError) as exc:
            raise EngineError(
                f"the container engine at {self.url} does not answer: {_short(exc)}",
                hint="is it running? DOCKER_HOST or the setting vm.engine say where",
            ) from None

    async def version(self) -> Mapping[str, Any]:
        return await self.call(lambda api: api.version())

    async def info(self) -> Mapping[str, Any]:
        return await self.call(lambda api: api.info())

    async def image(self, name: str) -> Mapping[str, Any] | None:
        """What the engine says of an image, None when it has none of that name."""

        def look(api: Any) -> Mapping[str, Any] | None:
            try:
                found: Mapping[str, Any] = api.inspect_image(name)
            except docker.errors.ImageNotFound:
                return None
            return found

        return await self.call(look)

    async def load(self, archive: Path, name: str) -> Mapping[str, Any]:
        """Load a docker-archive that is tagged ``name``."""

        def load(api: Any) -> Mapping[str, Any]:
            with archive.open("rb") as file:
                said = [line for line in api.load_image(file) if "error" in line]
            if said:
                raise docker.errors.APIError(str(said[0]["error"]))
            found: Mapping[str, Any] = api.inspect_image(name)
            return found

        return await self.call(load, timeout_s=limits.IMAGE_LOAD_TIMEOUT_S)

    async def images(self, reference: str) -> Sequence[Mapping[str, Any]]:
        return await self.call(lambda api: api.images(filters={"reference": reference}))

    async def remove_image(self, name: str) -> None:
        with contextlib.suppress(EngineError):  # in use, or gone already
            await self.call(lambda api: api.remove_image(name))

    async def pull(self, reference: str, repository: str, tag: str) -> Mapping[str, Any]:
        """A registry reference with its digest; ``repository:tag`` is its name, too, by which it is found again."""

        def pull(api: Any) -> Mapping[str, Any]:
            place, _, digest = reference.partition("@")
            for line in api.pull(place, tag=digest, stream=True, decode=True):
                if "error" in line:
                    raise docker.errors.APIError(str(line["error"]))
            api.tag(reference, repository, tag)
            found: Mapping[str, Any] = api.inspect_image(reference)
            return found

        return await self.call(pull, timeout_s=limits.IMAGE_LOAD_TIMEOUT_S)

    async def create(self, **config: Any) -> str:
        """A container's id; arguments as of APIClient.create_container, ``host`` as of create_host_config.

        Cancelled or too late, the container is removed as soon as the engine has made it: nobody would know its id.
        """
        host = config.pop("host")
        order = _Order()

        def create(api: Any) -> str:
            container = str(api.create_container(host_config=api.create_host_config(**host), **config)["Id"])
            if not order.delivered(container):
                api.remove_container(container, force=True, v=True)
            return container

        try:
            return await self.call(create)
        except BaseException:
            if (container := order.give_up()) is not None:
                with trio.CancelScope(shield=True), contextlib.suppress(EngineError):
                    await self.remove(container)
            raise

    async def archive(self, container: str, path: str, out: IO[bytes], *, max_bytes: int) -> None:
        """A tar of ``path`` in a container, after whose links the engine looks; nothing where nothing is there.

        Raises EngineError, also when it is larger. An abandoned call ends when ``out`` is closed.
        """

        def read(api: Any) -> None:
            # Not get_archive: only the answer itself can be closed, and until then the engine keeps the container.
            with contextlib.closing(
                api._get(api._url("/containers/{0}/archive", container), params={"path": path}, stream=True)
            ) as answer:
                try:
                    api._raise_for_status(answer)
                except docker.errors.NotFound:
                    return
                left_bytes = max_bytes
                for block in answer.iter_content(_ARCHIVE_BLOCK):
                    left_bytes -= len(block)
                    if left_bytes < 0:
                        raise TooLargeError(f"{path} in the image has more than {max_bytes // limits.MIB} MiB")
                    out.write(block)

        await self.call(read, timeout_s=limits.SEED_TIMEOUT_S)

    async def attach(self, container: str) -> socket.socket:
        """A raw connection to the stdin, stdout and stderr of a container that is not started yet."""
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 0}

        def attach(api: Any) -> socket.socket:
            answer = api.attach_socket(container, params=wanted)
            raw = getattr(answer, "_sock", answer)  # SocketIO over the connection
            # Ours lives on when the SDK's objects are collected.
            return socket.socket(fileno=os.dup(raw.fileno()))

        return await self.call(attach)

    async def start(self, container: str) -> None:
        await self.call(lambda api: api.start(container))

    async def inspect(self, container: str) -> Mapping[str, Any]:
        return await self.call(lambda api: api.inspect_container(container))

    async def remove(self, container: str) -> None:
        """Kill and remove; no error when it is gone."""

        def remove(api: Any) -> None:
            with contextlib.suppress(docker.errors.NotFound):
                api.remove_container(container, force=True, v=True)

        await self.call(remove, timeout_s=limits.ENGINE_REMOVE_TIMEOUT_S)

    async def containers(self, label: str) -> Sequence[str]:
        return [container for container, _ in await self.labelled(label)]

    async def labelled(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Containers of that label, in whatever state, with all their labels."""
        found = await self.call(lambda api: api.containers(all=True, filters={"label": label}))
        return [(str(one["Id"]), one.get("Labels") or {}) for one in found]

    async def written_bytes(self, container: str) -> int:
        """What it wrote outside of its volumes, as the engine counts it, which takes it a walk over those files."""
        found = await self.call(lambda api: api.containers(all=True, size=True, filters={"id": container}))
        return int(found[0].get("SizeRw") or 0) if found else 0

    async def stats(self, container: str) -> Mapping[str, Any]:
        return await self.call(lambda api: api.stats(container, stream=False, one_shot=True))


class _Order:
    """Between a thread that makes something and a task that may not wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: str | None = None
        self._unwanted = False

    def delivered(self, made: str) -> bool:
        """In the thread: here it is; whether anybody still wants it."""
        with self._lock:
            self._made = made
            return not self._unwanted

    def give_up(self) -> str | None:
        """In the task: what was made already, which is the task's to remove; else the thread will."""
        with self._lock:
            self._unwanted = True
            return self._made


def _short(exc: BaseException) -> str:
    text = str(exc)
    for known in ("No such file or directory", "Connection refused", "Permission denied", "timed out"):
        if known in text:
            return known
    return text[:200]
