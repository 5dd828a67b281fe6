"""The built-in profiles, and a person's settings over them."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from golemp2p.errors import UsageError
from golemp2p.networks.schema import NetworkEntry, Profile

_FOLDER: Final = Path(__file__).parent


def builtin_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def builtin_profile(name: str) -> Profile | None:
    """None for a name that is not built in. Raises UsageError naming what is wrong in the file."""
    if name not in builtin_names():
        return None
    return _profile(tomllib.loads((_FOLDER / f"{name}.toml").read_text()), f"golemp2p/networks/{name}.toml")


def merge(entry: NetworkEntry) -> Profile:
    """``entry`` over the built-in network of its name, or a complete network of its own. Raises UsageError.

    An entry with another chain id is its own network whatever its name: on a local chain that is called "polygon"
    no address of Polygon is anybody's.
    """
    values = entry.model_dump(exclude_none=True)
    base = builtin_profile(entry.name)
    if base is not None and entry.chain_id in (None, base.chain_id):
        known = base.model_dump(exclude_none=True)
        if entry.urls():  # one's own endpoints replace the built-in ones
            known = {k: v for k, v in known.items() if k not in ("rpc_url", "rpc_urls")}
        if entry.token not in (None, base.token) and entry.token_symbol is None:
            known.pop("token_symbol", None)
        values = {**known, **values, "cycle": {**known.get("cycle", {}), **values.get("cycle", {})}}
    elif base is None and entry.chain_id is None:
        raise UsageError(
            f"payment network {entry.name!r} is not built in, and its settings have no chain_id",
            hint=f"built in: {', '.join(builtin_names())}; another needs chain_id, token and rpc_urls",
        )
    return _profile(values, f"payment network {entry.name!r}")


def _profile(values: dict[str, Any], what: str) -> Profile:
    try:
        return Profile.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{what}: {where or 'entry'}: {first['msg']}") from exc
