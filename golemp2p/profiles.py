"""Network profiles: one small TOML file says all that a node needs to join a network (protocols/networks.md).

A profile gives defaults: what a node's own settings file, the environment or flags say counts more. Joined profiles
lie in the node's data directory, for the key of a private network is in them.
"""

from __future__ import annotations

import fnmatch
import os
import secrets
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from golemp2p import limits
from golemp2p.errors import ConflictError, NotFoundError, UsageError
from golemp2p.locations import Locations
from golemp2p.networks import NetworkEntry, merge

PROTOCOL: Final = 1  # what this version speaks; part of the handshake (protocols/transport.md)
PSK_BYTES: Final = 32
NAME: Final = r"^[a-z0-9-]{1,40}$"


def _address(text: str) -> str:
    """Looks like ``/…/p2p/<PeerId>`` or ``/dnsaddr/NAME``; the network layer reads it to the letter."""
    parts = text.split("/")
    dnsaddr = len(parts) in (3, 5) and parts[1] == "dnsaddr" and bool(parts[2])
    if parts[0] or not (dnsaddr or "/p2p/" in text):
        raise ValueError(f"{text!r} is no address of a peer: /ip4/…/tcp/…/p2p/<PeerId> or /dnsaddr/NAME")
    return text


def _payment(entry: NetworkEntry) -> NetworkEntry:
    try:
        merge(entry)
    except UsageError as exc:
        raise ValueError(str(exc)) from exc
    return entry


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubnetRules(_Part):
    """``default``: of nodes that name none; ``allowed``: shell patterns, ["*"] is any."""

    default: Annotated[str, Field(min_length=1, max_length=64)] = "public"
    allowed: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=64)] = [
        "*"
    ]

    @model_validator(mode="after")
    def _default_is_allowed(self) -> SubnetRules:
        if not self.allows(self.default):
            raise ValueError(f"the default subnet {self.default!r} is not among the allowed ones")
        return self

    def allows(self, subnet: str) -> bool:
        return any(fnmatch.fnmatchcase(subnet, pattern) for pattern in self.allowed)


class PaymentPart(_Part):
    networks: Annotated[list[Annotated[NetworkEntry, AfterValidator(_payment)]], Field(max_length=16)] = []


class NetworkProfile(_Part):
    """One network. ``psk``: 64 hex digits, of a private one; ``relay``: whether its nodes use relays."""

    version: Literal[1] = 1
    protocol: int = PROTOCOL
    name: Annotated[str, Field(pattern=NAME)]
    description: Annotated[str, Field(max_length=200)] = ""
    bootstrap: Annotated[list[Annotated[str, AfterValidator(_address)]], Field(max_length=64)] = []
    psk: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", repr=False)] = ""
    relay: bool = True
    mdns: bool = False
    subnets: SubnetRules = SubnetRules()
    payment: PaymentPart = PaymentPart()

    @property
    def private(self) -> bool:
        return bool(self.psk)

    def settings(self) -> dict[str, Any]:
        """As a settings file would say it: sections and their values."""
        net: dict[str, Any] = {
            "network": self.name,
            "subnet": self.subnets.default,
            "subnets": list(self.subnets.allowed),
            "bootstrap": list(self.bootstrap),
            "psk": self.psk,
            "relay": self.relay,
            "mdns": self.mdns,
        }
        networks = [entry.model_dump(exclude_unset=True) for entry in self.payment.networks]
        return {"net": net, **({"payment": {"networks": networks}} if networks else {})}

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(exclude_defaults=True) | {"version": self.version, "name": self.name})


def parse_profile(text: str, source: str) -> NetworkProfile:
    """Raises UsageError naming ``source`` and the key that is wrong; never shows a key's value."""
    if len(text) > limits.MAX_PROFILE_BYTES:
        raise UsageError(
            f"{source} is too large for a network profile", hint=f"at most {limits.MAX_PROFILE_BYTES} bytes"
        )
    try:
        profile = NetworkProfile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{source} is no TOML file: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors(include_input=False)[0]
        where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{source} is no network profile: {where}: {why}") from exc
    if profile.protocol != PROTOCOL:
        raise UsageError(
            f"network {profile.name} speaks protocol {profile.protocol}, this golemp2p speaks {PROTOCOL}",
            hint="install the version of golemp2p that the network's owner names",
        )
    return profile


def create_profile(
    name: str, *, private: bool, bootstrap: list[str], subnet: str, payment: list[str]
) -> NetworkProfile:
    """A new network, with a fresh key when ``private``. Raises UsageError."""
    try:
        return NetworkProfile(
            name=name,
            bootstrap=bootstrap,
            psk=secrets.token_hex(PSK_BYTES) if private else "",
            subnets=SubnetRules(default=subnet),
            payment=PaymentPart(networks=[NetworkEntry(name=one) for one in payment]),
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        where, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        hint = "a network's name has a-z, 0-9 and -, at most 40 of them" if where == "name" else ""
        raise UsageError(f"{where}: {why}", hint=hint) from exc


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by the owner only. Raises UsageError."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        part.rename(path)
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}", hint="choose another place") from exc


class JoinedNetworks:
    """The profiles of one data directory, and which of them the node runs on."""

    def __init__(self, where: Locations) -> None:
        self._where = where

    def _file(self, name: str) -> Path:
        return self._where.networks / f"{name}.toml"

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._where.networks.glob("*.toml"))

    def get(self, name: str) -> NetworkProfile:
        """Raises NotFoundError, UsageError (the file was spoilt)."""
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise NotFoundError(f"network {name!r} was not joined", hint=f"joined: {known}; golemp2p network join FILE")
        return parse_profile(self._file(name).read_text(), str(self._file(name)))

    def active(self) -> NetworkProfile | None:
        """The one that `golemp2p run` uses when it is told nothing. Raises UsageError."""
        name = self.active_name()
        return None if name is None else self.get(name)

    def active_name(self) -> str | None:
        try:
            return self._where.active_network.read_text().strip()
        except FileNotFoundError:
            return None

    def join(self, profile: NetworkProfile, *, replace: bool = False) -> None:
        """Keep the profile and make it the active one. Raises ConflictError: another one has the name."""
        if profile.name in self.names() and not replace and self.get(profile.name) != profile:
            raise ConflictError(
                f"another network {profile.name!r} was joined before",
                hint=f"golemp2p network leave {profile.name}, or --replace",
            )
        write_private(self._file(profile.name), profile.to_toml())
        write_private(self._where.active_network, profile.name + "\n")

    def leave(self, name: str) -> None:
        """Forget it. Raises NotFoundError."""
        if name not in self.names():
            self.get(name)
        if self.active_name() == name:
            self._where.active_network.unlink()
        self._file(name).unlink()
