"""What an executable runtime prints (Golem's runtime CLI), read with suspicion. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from golemp2p.core.properties import flatten
from golemp2p.errors import GolemError
from golemp2p.runtimes.base import RuntimeFailureError

EMPTY, BLOCKING = "empty", "blocking"


@dataclass(frozen=True)
class DeployAnswer:
    """``volumes``: guest path -> name of the directory below the work directory."""

    start_mode: str
    volumes: Mapping[str, str]


def parse_deploy(text: str) -> DeployAnswer:
    """``{startMode, valid: {Ok} or {Err}, vols: [{name, path}]}``. Raises RuntimeFailureError."""
    found = _object(text, "deploy")
    valid = found.get("valid", {"Ok": ""})
    if not isinstance(valid, dict) or len(valid) != 1 or next(iter(valid)) not in ("Ok", "Err"):
        raise RuntimeFailureError("the runtime's deploy answer has no valid: {Ok} or {Err}")
    if "Err" in valid:
        raise RuntimeFailureError(f"the runtime refused the package: {str(valid['Err'])[:500]}")
    mode = found.get("startMode", EMPTY)
    if not isinstance(mode, str) or mode.lower() not in (EMPTY, BLOCKING):
        raise RuntimeFailureError(f"the runtime's start mode is {str(mode)[:40]!r}, not {EMPTY!r} or {BLOCKING!r}")
    listed = found.get("vols", [])
    if not isinstance(listed, list):
        raise RuntimeFailureError("the runtime's vols are no list")
    volumes: dict[str, str] = {}
    for item in listed:
        name, path = (item.get("name"), item.get("path")) if isinstance(item, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(path, str):
            raise RuntimeFailureError("the runtime names a volume without name or path")
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(name) > 200:
            raise RuntimeFailureError(f"the runtime names a volume {name[:80]!r}, which is no directory name")
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise RuntimeFailureError(f"the runtime names a volume at {path[:80]!r}, which is no absolute path")
        volumes["/" + path.strip("/")] = name
    return DeployAnswer(mode.lower(), volumes)


def parse_offer_template(text: str) -> dict[str, str | float | bool | list[str]]:
    """The properties, nested or flat, of ``{properties, constraints}``. Raises RuntimeFailureError."""
    properties = _object(text, "offer-template").get("properties", {})
    if not isinstance(properties, dict):
        raise RuntimeFailureError("the runtime's offer template has properties that are no object")
    try:
        flat = flatten(properties)
    except (ValueError, GolemError) as exc:
        raise RuntimeFailureError(f"the runtime's offer template is not understood: {exc}") from exc
    return {name: [str(item) for item in value] if isinstance(value, list) else value for name, value in flat.items()}


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RuntimeFailureError(f"the runtime's answer to {what} is no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise RuntimeFailureError(f"the runtime's answer to {what} is no object")
    return found
