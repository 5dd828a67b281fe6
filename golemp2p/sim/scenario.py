"""Scenarios: TOML files with a strict schema; a wrong key is an error that names it."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from golemp2p.errors import UsageError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinksPart(_Part):
    latency_ms: tuple[float, float] = (10.0, 120.0)
    jitter: Share = 0.2
    bandwidth_mbit: Annotated[float, Field(gt=0)] = 100.0
    loss: Share = 0.0
    duplicate: Share = 0.0
    reorder: Share = 0.0


class ProvidersPart(_Part):
    """``price``: GLM an hour, lowest and highest; ``kind``: honest or what is wrong with them."""

    count: Annotated[int, Field(ge=0)] = 0
    kind: Literal["honest", "vanishes", "wrong-results", "spammer", "sybil"] = "honest"
    price: tuple[float, float] = (0.1, 0.5)
    capacity: Annotated[int, Field(ge=1, le=100)] = 1
    offers: Annotated[int, Field(ge=1, le=256)] = 1
    start_s: tuple[Seconds, Seconds] = (0.0, 5.0)  # their offers come between
    join_s: tuple[Seconds, Seconds] = (0.0, 5.0)
    note_interval_s: Seconds = 120.0
    clock_skew_s: float = 0.0  # at most, either way


class RequestorsPart(_Part):
    """``kind``: ``free-rider`` never accepts a bill."""

    count: Annotated[int, Field(ge=0)] = 0
    kind: Literal["honest", "free-rider"] = "honest"
    tasks: Annotated[int, Field(ge=0)] = 4
    task_s: Seconds = 30.0
    workers: Annotated[int, Field(ge=1)] = 2
    budget: str = "10"
    start_s: tuple[Seconds, Seconds] = (10.0, 15.0)
    join_s: tuple[Seconds, Seconds] = (0.0, 5.0)
    mid_payments_s: Seconds | None = None
    tasks_per_agreement: Annotated[int, Field(ge=0)] = 0
    clock_skew_s: float = 0.0


class FaultPart(_Part):
    """``at_s``; ``for_s`` until it is over. ``who``: providers, requestors, all, or one node's number."""

    kind: Literal["partition", "churn", "crash", "chain-outage", "eclipse", "bad-peers"]
    at_s: Seconds
    for_s: Seconds = 60.0
    who: Literal["providers", "requestors", "all"] | int = "all"
    share: Share = 0.5  # of those; of the nodes in the smaller part
    count: Annotated[int, Field(ge=0)] = 0  # instead of the share
    down_s: tuple[Seconds, Seconds] = (5.0, 60.0)
    per_minute: Annotated[float, Field(ge=0)] = 60.0  # bad peers: forged, replayed and garbled messages of each


class ExpectPart(_Part):
    """What must be so at the end; checked beside the safety properties."""

    offers_known: Share = 0.0  # share of honest living nodes that know 99 % of the live offers
    tasks_done: Share = 0.0  # of the honest requestors' tasks
    paid: bool = True  # every accepted invoice of honest requestors
    propagation_p99_s: Seconds | None = None
    honest_offers_known: Share = 0.0  # share of honest offers that each honest requestor knows at the least


class Scenario(_Part):
    name: str
    about: str = ""
    seed: int = 1
    until_s: Seconds = 300.0
    quiet_s: Seconds = 120.0  # of it, at the end, without faults: liveness is checked after it
    degree: Annotated[int, Field(ge=1, le=50)] = 6
    spread: Literal["auto", "gossip", "rendezvous"] = "auto"
    sample_s: Annotated[float, Field(ge=0.1)] = 1.0
    links: LinksPart = LinksPart()
    providers: tuple[ProvidersPart, ...] = ()
    requestors: tuple[RequestorsPart, ...] = ()
    faults: tuple[FaultPart, ...] = ()
    expect: ExpectPart = ExpectPart()

    @property
    def nodes(self) -> int:
        return sum(p.count for p in self.providers) + sum(r.count for r in self.requestors)

    def scaled(self, nodes: int) -> Scenario:
        """With ``nodes`` nodes in the same shares; at least one of each group."""
        factor = nodes / max(1, self.nodes)

        def size(count: int) -> int:
            return max(1, round(count * factor)) if count else 0

        providers = tuple(p.model_copy(update={"count": size(p.count)}) for p in self.providers)
        requestors = tuple(r.model_copy(update={"count": size(r.count)}) for r in self.requestors)
        return self.model_copy(update={"providers": providers, "requestors": requestors})


def shipped() -> dict[str, str]:
    """Names and first words of the scenarios that come with golemp2p."""
    found = {}
    for entry in sorted(resources.files("golemp2p.sim").joinpath("scenarios").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = tomllib.loads(entry.read_text()).get("about", "")
    return found


def load(name_or_path: str) -> Scenario:
    """A shipped scenario by its name, or a file. Raises UsageError."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        try:
            text = path.read_text()
        except OSError as exc:
            raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    elif name_or_path in shipped():
        text = resources.files("golemp2p.sim").joinpath(f"scenarios/{name_or_path}.toml").read_text()
    else:
        raise UsageError(f"there is no scenario {name_or_path!r}", hint=f"there are {', '.join(shipped())}")
    return parse(text, name_or_path)


def parse(text: str, where: str) -> Scenario:
    """Raises UsageError that names the key."""
    try:
        return Scenario.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{where} is no TOML: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {key}: {first['msg']}") from exc
