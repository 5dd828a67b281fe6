"""Scenarios: TOML files with a strict schema; a wrong key is an error that names it."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from golemp2p.core.money import parse_amount
from golemp2p.errors import UsageError


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"from {pair[0]:g} to {pair[1]:g} is nothing: the lowest comes first")
    return pair


def _amount(text: str) -> str:
    try:
        parse_amount(text)
    except UsageError as exc:
        raise ValueError(exc.message) from exc
    return text


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Span = Annotated[tuple[Seconds, Seconds], AfterValidator(_rising)]
Range = Annotated[tuple[Annotated[float, Field(ge=0.0)], Annotated[float, Field(ge=0.0)]], AfterValidator(_rising)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinksPart(_Part):
    latency_ms: Range = (10.0, 120.0)
    jitter: Share = 0.2
    bandwidth_mbit: Annotated[float, Field(gt=0)] = 100.0
    loss: Share = 0.0
    duplicate: Share = 0.0
    reorder: Share = 0.0


class ProvidersPart(_Part):
    """``price``: GLM an hour, lowest and highest; ``kind``: honest or what is wrong with them."""

    count: Annotated[int, Field(ge=0)] = 0
    kind: Literal["honest", "vanishes", "wrong-results", "spammer", "sybil"] = "honest"
    price: Range = (0.1, 0.5)
    capacity: Annotated[int, Field(ge=1, le=100)] = 1
    offers: Annotated[int, Field(ge=1, le=256)] = 1
    start_s: Span = (0.0, 5.0)  # their offers come between
    join_s: Span = (0.0, 5.0)
    note_interval_s: Seconds = 120.0
    clock_skew_s: float = 0.0  # at most, either way


class RequestorsPart(_Part):
    """``kind``: ``free-rider`` never accepts a bill."""

    count: Annotated[int, Field(ge=0)] = 0
    kind: Literal["honest", "free-rider"] = "honest"
    tasks: Annotated[int, Field(ge=0)] = 4
    task_s: Seconds = 30.0
    workers: Annotated[int, Field(ge=1)] = 2
    budget: Annotated[str, AfterValidator(_amount)] = "10"
    start_s: Span = (10.0, 15.0)
    join_s: Span = (0.0, 5.0)
    mid_payments_s: Seconds | None = None
    tasks_per_agreement: Annotated[int, Field(ge=0)] = 0
    clock_skew_s: float = 0.0


class FaultPart(_Part):
    """``at_s``; ``for_s`` until it is over. ``who``: providers, requestors, all, or one node's number."""

    kind: Literal["partition", "churn", "crash", "chain-outage", "eclipse", "bad-peers"]
    at_s: Seconds
    for_s: Seconds = 60.0
    who: Literal["providers", "requestors", "all"] | Annotated[int, Field(ge=0)] = "all"
    share: Share = 0.5  # of those; of the nodes in the smaller part
    count: Annotated[int, Field(ge=0)] = 0  # instead of the share
    down_s: Span = (5.0, 60.0)
    per_minute: Annotated[float, Field(ge=0)] = 60.0  # bad peers: forged, replayed and garbled messages of each

    @property
    def over_at_s(self) -> float:
        """When the last of it has ended, at the latest."""
        lasts_s = 0.0 if self.kind == "crash" else self.for_s
        return self.at_s + lasts_s + (self.down_s[1] if self.kind in ("crash", "churn") else 0.0)


class ExpectPart(_Part):
    """What must be so at the end; checked beside the safety properties."""

    offers_known: Share = 0.0  # share of honest living nodes that know 99 % of the live offers
    tasks_done: Share = 0.0  # of the honest requestors' tasks
    paid: bool = True  # every accepted invoice of honest requestors
    settled: bool = True  # every bill between honest nodes, and both know it
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

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        if not self.nodes:
            raise ValueError("it has no nodes: [[providers]] or [[requestors]] with a count")
        for number, fault in enumerate(self.faults):
            if isinstance(fault.who, int) and fault.who >= self.nodes:
                raise ValueError(f"faults.{number}.who: there is no node {fault.who} among {self.nodes}")
            if fault.over_at_s > self.until_s - self.quiet_s:
                raise ValueError(
                    f"faults.{number}: this {fault.kind} may last until {fault.over_at_s:g} s; liveness is asked for at"
                    f" until_s = {self.until_s:g}, after quiet_s = {self.quiet_s:g} without faults"
                )
        return self

    @property
    def nodes(self) -> int:
        return sum(p.count for p in self.providers) + sum(r.count for r in self.requestors)

    def scaled(self, nodes: int) -> Scenario:
        """With ``nodes`` nodes in the same shares; at least one of each group. Raises UsageError (a fault's node)."""
        factor = nodes / max(1, self.nodes)

        def size(count: int) -> int:
            return max(1, round(count * factor)) if count else 0

        providers = tuple(p.model_copy(update={"count": size(p.count)}) for p in self.providers)
        requestors = tuple(r.model_copy(update={"count": size(r.count)}) for r in self.requestors)
        made = self.model_copy(update={"providers": providers, "requestors": requestors})
        for fault in made.faults:
            if isinstance(fault.who, int) and fault.who >= made.nodes:
                raise UsageError(f"a fault is for node {fault.who}: there is none among {made.nodes}")
        return made


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
        except UnicodeDecodeError as exc:
            raise UsageError(f"{path} is no text in UTF-8: {exc.reason}") from exc
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
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            ": ".join([where, *([".".join(map(str, first["loc"]))] if first["loc"] else []), said])
        ) from exc
