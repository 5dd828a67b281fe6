"""Settings of a node: flag > environment (``GOLEMP2P_<SECTION>__<NAME>``) > ``config.toml`` > default.

Unknown keys are errors, in the file and in the sections.
"""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from golemp2p import limits
from golemp2p.core.manifest import check_whitelist
from golemp2p.core.money import format_amount, parse_amount
from golemp2p.errors import UsageError
from golemp2p.networks import NetworkEntry, merge

VERSION = 1


Sha3: Final = Field(pattern=r"^([0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetSection(Section):
    """``network`` and ``subnet`` separate markets; nodes of another network never get past the handshake; ``subnets``:
    patterns of those that the network allows. ``psk``: 64 hex digits that every node of a private network has.
    ``relay``: be reachable through others while nobody can dial us; ``relay_service``: be such a relay; ``mdns``: find
    nodes on the LAN; ``upnp``: ask the router for a port; ``spread``: how offers are told (auto: gossip, by the DHT
    when there are many); ``lane``: large files by TLS sockets beside libp2p, where two nodes reach each other;
    ``lane_listen``: IP:PORT of those, by default where libp2p listens, one port further if that is free.
    """

    network: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "local"
    subnet: Annotated[str, Field(min_length=1, max_length=64)] = "public"
    subnets: list[str] = ["*"]
    listen: list[str] = ["/ip4/0.0.0.0/tcp/11155"]
    bootstrap: list[str] = []
    announce: list[str] = []
    dht: bool = True
    psk: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$", repr=False)] = ""
    relay: bool = True
    relay_service: bool = False
    mdns: bool = False
    upnp: bool = False
    spread: Literal["auto", "gossip", "rendezvous"] = "auto"
    connections_per_ip: Annotated[int, Field(ge=1, le=10_000)] = limits.MAX_CONNECTIONS_PER_IP
    lane: bool = True
    lane_listen: str = ""

    def allows(self, subnet: str) -> bool:
        return any(fnmatch.fnmatchcase(subnet, pattern) for pattern in self.subnets)

    @model_validator(mode="after")
    def _subnet_is_allowed(self) -> NetSection:
        if not self.allows(self.subnet):
            raise ValueError(f"the network does not allow subnet {self.subnet!r}, only {', '.join(self.subnets)}")
        return self


class RestSection(Section):
    """The REST API binds to loopback. ``allowed_hosts`` are further names in the Host header that are served;
    ``allowed_origins``: web pages that may call with any app-key they have ("*": all), besides each key's own list;
    ``agent_silence_s``: an agreement whose agent is silent for so long is ended (default: its own accept timeout).
    """

    listen: str = "127.0.0.1:7465"
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    agent_silence_s: Annotated[float, Field(gt=0)] | None = None


def _different_names(entries: list[NetworkEntry]) -> list[NetworkEntry]:
    for entry in entries:
        try:
            merge(entry)  # a mistake is told where the settings are read, not when the first payment is due
        except UsageError as exc:
            raise ValueError(str(exc)) from exc
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("two payment networks have the same name")
    return entries


def _amount(text: str) -> str:
    try:
        parse_amount(text)
    except UsageError as exc:  # as a ValueError it is told with the key that it stands at
        raise ValueError(exc.message) from exc
    return text


class CapsSection(Section):
    """What the node may sign away, in the token (GLM), on each platform by itself; "" is any sum. Checked where money
    is signed: payouts, vouchers and one's own transfers. A day is the last 24 hours.
    """

    per_day: Annotated[str, AfterValidator(lambda text: text and _amount(text))] = ""
    per_agreement: Annotated[str, AfterValidator(lambda text: text and _amount(text))] = ""


class ChannelsSection(Section):
    """Voucher channels (protocols/payment.md). As payer: ``deposit`` (GLM; "": ten times the agreed exposure) is
    locked for each provider, and comes back ``grace_s`` after a close; an unused channel is closed after
    ``idle_close_s``. As payee: a channel's grace must be ``min_grace_s`` at least; vouchers are claimed above
    ``claim_threshold`` (GLM), after ``claim_after_s``, when a channel is closed, and with ``claim_on_invoice`` at once.
    """

    deposit: Annotated[str, AfterValidator(lambda text: text and _amount(text))] = ""
    grace_s: Annotated[int, Field(ge=1, le=366 * 86_400)] = limits.CHANNEL_GRACE_S
    open_timeout_s: Annotated[float, Field(gt=0)] = limits.CHANNEL_OPEN_TIMEOUT_S
    idle_close_s: Annotated[float, Field(gt=0)] = limits.CHANNEL_IDLE_CLOSE_S
    min_grace_s: Annotated[int, Field(ge=0)] = limits.CHANNEL_MIN_GRACE_S
    claim_threshold: Annotated[str, AfterValidator(_amount)] = format_amount(limits.CHANNEL_CLAIM_THRESHOLD)
    claim_after_s: Annotated[float, Field(ge=0)] = limits.CHANNEL_CLAIM_AFTER_S
    claim_on_invoice: bool = False


class PaymentSection(Section):
    """``networks``: names that are built in (golemp2p/networks), with or without changes, or complete ones.

    ``auto_accept_after_s``: documents that a silent agent left are accepted within the agreed price; 0 is never.
    """

    networks: Annotated[list[NetworkEntry], AfterValidator(_different_names)] = []
    auto_accept_after_s: Annotated[float, Field(ge=0)] = limits.AUTO_ACCEPT_AFTER_S
    caps: CapsSection = CapsSection()
    mode: Literal["batch", "channel"] = "batch"  # what our demands ask for
    voucher_keystore: str = ""  # a hot key for vouchers; "": the node's own
    channels: ChannelsSection = ChannelsSection()


class OutboundSection(Section):
    """What payloads may reach outside when their manifest asks for it: host names, ``*.name``, IPv4 addresses, or
    ``all`` for every public host. Nothing by default.
    """

    whitelist: Annotated[list[str], AfterValidator(lambda entries: list(check_whitelist(entries)))] = []


class ProviderSection(Section):
    """The provider agent. Prices in GLM; ``runtimes`` are offered when this machine can run them: wasmtime, vm (the
    better of vm/docker and vm/qemu), custom ones by name. A storage or fuel price adds that counter to the offers.
    ``package_substitutes``: only for test networks whose programs name an image that cannot be had: the sha3 that the
    agreement names -> the sha3 of what runs instead. What both sides signed is then not what runs.
    """

    node_name: str = ""
    package_substitutes: dict[Annotated[str, Sha3], Annotated[str, Sha3]] = {}
    outbound: OutboundSection = OutboundSection()
    http_transfers: list[str] = []  # URL prefixes that payloads' files may come from and go to
    runtimes: list[str] = ["wasmtime"]
    price_start: float = 0.0
    price_per_hour: float = 0.02
    price_per_cpu_hour: float = 0.1
    price_per_storage_gib: Annotated[float, Field(ge=0)] = 0.0
    price_per_gfuel: Annotated[float, Field(ge=0)] = 0.0
    max_activities: Annotated[int, Field(ge=1, le=1000)] = 2
    memory_gib: float | None = None
    storage_gib: float = 2.0
    threads: int | None = None
    debit_note_interval_s: Annotated[float, Field(ge=1)] = 120.0
    exposure: Annotated[float, Field(ge=0)] = 0.0  # GLM of unvouched work in mode channel; 0: one interval's price
    accept_timeout_s: Annotated[float, Field(ge=1)] = 240.0
    payment_timeout_s: Annotated[float, Field(ge=1)] = 120.0


class VmSection(Section):
    """Runtime "vm". ``engine``: the container engine's URL (else DOCKER_HOST and the usual sockets); ``oci_runtime``:
    runsc, kata … as the engine has it; ``run_as``: uid[:gid] for all payloads instead of the image's user; ``pull``:
    prefixes of registry references that may be pulled; ``capabilities``: "usual" leaves root in a container what
    engines usually leave it (nginx and sshd need it; machines of qemu always do); ``kernel`` and ``accel``: of qemu.
    """

    engine: str = ""
    oci_runtime: str = ""
    run_as: Annotated[str, Field(pattern=r"^(\d+(:\d+)?)?$")] = ""
    read_only_root: bool = False
    pull: list[str] = []
    capabilities: Literal["none", "usual"] = "none"
    kernel: str = ""
    accel: Literal["auto", "tcg", "kvm"] = "auto"


class RegistrySection(Section):
    """The image registry of this node's REST API. ``aliases``: tag or hash that programs ask for -> name, hash or file

    of an image here. For test networks: the answer has the hash of what is there, so providers still check it.
    """

    aliases: dict[str, str] = {}


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Settings(BaseSettings):
    """Everything a node can be told. Made by :func:`load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="GOLEMP2P_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    version: Literal[1] = 1
    net: NetSection = NetSection()
    rest: RestSection = RestSection()
    payment: PaymentSection = PaymentSection()
    provider: ProviderSection = ProviderSection()
    vm: VmSection = VmSection()
    runtime: dict[str, dict[str, Any]] = {}  # settings of custom runtimes: [runtime.NAME]
    registry: RegistrySection = RegistrySection()
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file (the file comes in as init arguments)."""
        return env_settings, init_settings


def read_file(path: Path) -> dict[str, Any]:
    """Raises UsageError with the place of a syntax error."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise UsageError(f"cannot read {path}: {exc}") from exc


def load_settings(
    path: Path, overrides: dict[str, dict[str, Any]] | None = None, *, defaults: dict[str, Any] | None = None
) -> Settings:
    """The file at ``path`` (may be absent), the environment over it, ``overrides`` (flags) over both; ``defaults`` (of
    the network's profile, :meth:`golemp2p.profiles.NetworkProfile.settings`) below all.

    Raises UsageError naming the key that is wrong.
    """
    try:
        settings = Settings(**_over(defaults or {}, read_file(path)))
        if overrides:
            merged = settings.model_dump()
            for section, values in overrides.items():
                merged[section].update(values)
            settings = _with(merged)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        # A payment network's URL may hold a key; the PSK is one.
        got = "" if where.startswith(("payment.networks", "net.psk")) else f" (got {first.get('input')!r:.80})"
        raise UsageError(
            f"setting {where}: {first['msg'].removeprefix('Value error, ')}{got}",
            hint=f"look at {path} and at GOLEMP2P_{where.upper().replace('.', '__')}",
        ) from exc
    return settings


def _over(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``values``, and of ``defaults`` what they do not say, section by section."""
    both = {
        name: {**section, **values[name]} if isinstance(values.get(name), dict) else section
        for name, section in defaults.items()
        if isinstance(values.get(name, {}), dict)
    }
    return {**values, **both}


def _with(values: dict[str, Any]) -> Settings:
    """Validated section by section: going through Settings again would let the environment win over flags."""
    return Settings.model_construct(
        version=1,
        net=NetSection.model_validate(values["net"]),
        rest=RestSection.model_validate(values["rest"]),
        payment=PaymentSection.model_validate(values["payment"]),
        provider=ProviderSection.model_validate(values["provider"]),
        vm=VmSection.model_validate(values["vm"]),
        runtime=values["runtime"],
        registry=RegistrySection.model_validate(values["registry"]),
        log=LogSection.model_validate(values["log"]),
    )
