"""Exe scripts: the commands that a requestor sends to an activity (yagna's activity API, §3 of protocols/activity.md).

A script is the JSON text of an array of one-key objects. Unknown keys inside a command are ignored (golem-js sends
some); unknown commands and wrong types are errors that name the command's index and field.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from golemp2p import limits
from golemp2p.core.vpn import NetworkOrder, check_name, parse_order
from golemp2p.errors import UsageError


class CaptureMode(StrEnum):
    STREAM = "stream"
    AT_END = "atEnd"


class CapturePart(StrEnum):
    HEAD = "head"
    TAIL = "tail"
    HEAD_TAIL = "headTail"


@dataclass(frozen=True)
class Capture:
    """What of one output stream is kept. ``limit_bytes`` None: all, up to MAX_CAPTURE_BYTES."""

    mode: CaptureMode
    part: CapturePart = CapturePart.HEAD
    limit_bytes: int | None = None
    binary: bool = False
    base64: bool = False  # ours: exact like binary, without the cost of an array of numbers


@dataclass(frozen=True)
class Command:
    """Base of all commands. ``raw`` is the one-key object as the client wrote it; it goes back in ``started``."""

    raw: Mapping[str, object] = field(repr=False, compare=False, kw_only=True, default_factory=dict)
    kind = "command"


@dataclass(frozen=True)
class Sign(Command):
    kind = "sign"


@dataclass(frozen=True)
class Deploy(Command):
    """``volumes``: guest paths, normalised. ``progress_s``: how often the client wants progress events."""

    kind = "deploy"
    volumes: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    hostname: str | None = None
    hosts: tuple[tuple[str, str], ...] = ()
    networks: tuple[NetworkOrder, ...] = ()
    progress_s: float | None = None


@dataclass(frozen=True)
class Start(Command):
    kind = "start"
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run(Command):
    kind = "run"
    entry_point: str = ""
    args: tuple[str, ...] = ()
    stdout: Capture | None = None
    stderr: Capture | None = None


@dataclass(frozen=True)
class Transfer(Command):
    kind = "transfer"
    source: str = ""
    target: str = ""
    format: str | None = None
    progress_s: float | None = None


@dataclass(frozen=True)
class Terminate(Command):
    kind = "terminate"


class ScriptError(UsageError):
    """The script is not one; the message says where."""

    code = "script"


def parse_script(text: str) -> tuple[Command, ...]:
    """All commands of a script. Raises ScriptError."""
    if len(text.encode("utf-8", "surrogatepass")) > limits.MAX_SCRIPT_BYTES:
        raise ScriptError("the exe script is too large", hint=f"at most {limits.MAX_SCRIPT_BYTES} bytes")
    try:
        commands = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ScriptError(f"the exe script is not JSON: {exc}") from None
    if not isinstance(commands, list):
        raise ScriptError(f"the exe script is {_name(commands)}, not an array of commands")
    if not commands:
        raise ScriptError("the exe script has no command")
    if len(commands) > limits.MAX_SCRIPT_COMMANDS:
        raise ScriptError(f"the exe script has {len(commands)} commands", hint=f"at most {limits.MAX_SCRIPT_COMMANDS}")
    return tuple(_command(index, item) for index, item in enumerate(commands))


@dataclass(frozen=True)
class _Body:
    """One command's object with typed access; every complaint names the place."""

    where: str
    data: Mapping[str, object]

    def fail(self, field_name: str, problem: str) -> ScriptError:
        return ScriptError(f"{self.where}: {field_name} {problem}")

    def text(self, name: str) -> str:
        value = self.data.get(name)
        if value is None:
            raise self.fail(name, "is missing")
        return self._text(name, value)

    def optional_text(self, name: str) -> str | None:
        value = self.data.get(name)
        return None if value is None else self._text(name, value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.data.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.fail(name, f"is {_name(value)}, not an array of strings")
        return tuple(self._text(f"{name}[{i}]", item) for i, item in enumerate(value))

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (self._text(f"key of {name}", key), self._text(f"{name}.{key}", value))
            for key, value in self.mapping(name).items()
        )

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.data.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(name, f"is {_name(value)}, not an object")
        return value

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.fail(name, f"is {_name(value)}, not a string")
        if "\0" in value:
            raise self.fail(name, "holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.fail(name, "holds a lone surrogate") from None
        return value


def _name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _command(index: int, item: object) -> Command:
    if not isinstance(item, dict) or len(item) != 1:
        raise ScriptError(f"command {index}: must be an object with one key, the command's name")
    kind, data = next(iter(item.items()))
    build = _BUILDERS.get(kind)
    if build is None:
        raise ScriptError(f"command {index}: there is no command {kind[:40]!r}", hint=f"known: {', '.join(_BUILDERS)}")
    if not isinstance(data, dict | None):
        raise ScriptError(f"command {index} ({kind}): its body is {_name(data)}, not an object")
    return build(_Body(f"command {index} ({kind})", data or {}), item)


def _deploy(body: _Body, raw: Mapping[str, object]) -> Deploy:
    volumes = body.data.get("volumes")
    paths = tuple(body.mapping("volumes")) if isinstance(volumes, dict) else body.texts("volumes")
    if len(paths) > limits.MAX_VOLUMES:
        raise body.fail("volumes", f"has {len(paths)} entries, more than {limits.MAX_VOLUMES}")
    return Deploy(
        volumes=tuple(dict.fromkeys(_volume(body, path) for path in paths)),
        env=body.pairs("env"),
        hostname=_hostname(body),
        hosts=_hosts(body),
        networks=_networks(body),
        progress_s=_progress(body),
        raw=raw,
    )


def _networks(body: _Body) -> tuple[NetworkOrder, ...]:
    entries = body.data.get("net")
    if entries is None:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise body.fail("net", f"is {_name(entries)}, not an array of objects")
    if len(entries) > limits.MAX_VPN_NETWORKS_PER_ACTIVITY:
        raise body.fail("net", f"has {len(entries)} entries, more than {limits.MAX_VPN_NETWORKS_PER_ACTIVITY}")
    try:
        orders = tuple(parse_order(entry) for entry in entries)
    except UsageError as exc:
        raise body.fail("net", f"is wrong: {exc.message}") from None
    if len({order.id for order in orders}) < len(orders):
        raise body.fail("net", "names a network twice")
    for number, order in enumerate(orders):
        if any(order.network.overlaps(other.network) for other in orders[:number]):
            raise body.fail("net", f"has networks that overlap: {order.network}")
    return orders


def _hostname(body: _Body) -> str | None:
    name = body.optional_text("hostname")
    if not name:
        return name
    try:
        return check_name(name, "127.0.0.1")[0]
    except UsageError as exc:
        raise body.fail("hostname", f"is wrong: {exc.message}") from None


def _hosts(body: _Body) -> tuple[tuple[str, str], ...]:
    hosts = body.pairs("hosts")
    if len(hosts) > limits.MAX_VPN_HOSTS:
        raise body.fail("hosts", f"has {len(hosts)} entries, more than {limits.MAX_VPN_HOSTS}")
    try:
        return tuple(check_name(name, address) for name, address in hosts)
    except UsageError as exc:
        raise body.fail("hosts", f"is wrong: {exc.message}") from None


def _volume(body: _Body, path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise body.fail("volumes", f"has {path[:80]!r}, which is no absolute path")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if normal == "/":
        raise body.fail("volumes", "has '/', which cannot be a volume")
    return normal


def _progress(body: _Body) -> float | None:
    """``{updateInterval: "5s"}`` as seconds (also "500ms", "1m"); 5 s when asked for without a number."""
    if body.data.get("progress") is None:
        return None
    text = body.mapping("progress").get("updateInterval")
    if text is None:
        return limits.DEFAULT_PROGRESS_S
    if isinstance(text, str):
        for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
            number = text.strip().removesuffix(unit)
            if text.strip().endswith(unit) and number.replace(".", "", 1).isdecimal():
                return max(float(number) * factor, limits.MIN_PROGRESS_S)
    raise body.fail("progress.updateInterval", f"is {str(text)[:40]!r}, not a duration such as '5s'")


def _run(body: _Body, raw: Mapping[str, object]) -> Run:
    capture = body.mapping("capture")
    return Run(
        entry_point=body.text("entry_point"),
        args=body.texts("args"),
        stdout=_capture(body, capture, "stdout"),
        stderr=_capture(body, capture, "stderr"),
        raw=raw,
    )


def _capture(body: _Body, captures: Mapping[str, object], stream: str) -> Capture | None:
    value = captures.get(stream)
    where = f"capture.{stream}"
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise body.fail(where, "must be {stream: …} or {atEnd: …}")
    mode, options = next(iter(value.items()))
    if mode not in tuple(CaptureMode) or not isinstance(options, dict | None):
        raise body.fail(where, "must be {stream: …} or {atEnd: …}")
    options = options or {}
    form = options.get("format")
    if form not in (None, "str", "string", "bin", "binary", "base64"):
        raise body.fail(f"{where}.format", f"is {str(form)[:40]!r}, not one of str, string, bin, binary, base64")
    part, limit_bytes = CapturePart.HEAD, None
    for name in ("limit",) if mode == CaptureMode.STREAM else tuple(CapturePart):
        limit = options.get(name)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise body.fail(f"{where}.{name}", f"is {str(limit)[:40]!r}, not a number of bytes")
        part, limit_bytes = CapturePart.HEAD if name == "limit" else CapturePart(name), limit
    return Capture(CaptureMode(mode), part, limit_bytes, form in ("bin", "binary"), form == "base64")


def _transfer(body: _Body, raw: Mapping[str, object]) -> Transfer:
    return Transfer(
        source=body.text("from"),
        target=body.text("to"),
        format=body.optional_text("format"),
        progress_s=_progress(body),
        raw=raw,
    )


_BUILDERS: Final[Mapping[str, Callable[[_Body, Mapping[str, object]], Command]]] = {
    "sign": lambda _body, raw: Sign(raw=raw),
    "deploy": _deploy,
    "start": lambda body, raw: Start(args=body.texts("args"), raw=raw),
    "run": _run,
    "transfer": _transfer,
    "terminate": lambda _body, raw: Terminate(raw=raw),
}
