"""`golemp2p network`: make, join, look at and leave networks."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import AsJson, DataDir, echo_json, facts, locations_of, run_async, say, table
from golemp2p.errors import ConflictError, NetworkError, NotFoundError, UsageError

if TYPE_CHECKING:
    from golemp2p.locations import Locations
    from golemp2p.profiles import NetworkProfile

app = typer.Typer(help="Networks: make one, join one, leave it.", no_args_is_help=True)


@app.command(
    epilog="Example: golemp2p network create lab --private --bootstrap /ip4/192.0.2.7/tcp/11155/p2p/16Uiu2… > lab.toml"
)
def create(
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and -; part of the handshake.")],
    private: Annotated[
        bool, typer.Option("--private", help="With a fresh pre-shared key: who lacks it stays out.")
    ] = False,
    bootstrap: Annotated[
        list[str] | None, typer.Option("--bootstrap", help="Multiaddr of a bootnode; repeatable.")
    ] = None,
    subnet: Annotated[str, typer.Option("--subnet", help="Of nodes that name none.")] = "public",
    payment: Annotated[list[str] | None, typer.Option("--payment", help="Payment network by name; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default: stdout.")] = None,
) -> None:
    """Write the profile of a new network: the file that its nodes join with."""
    from golemp2p.profiles import create_profile, write_private

    profile = create_profile(name, private=private, bootstrap=bootstrap or [], subnet=subnet, payment=payment or [])
    text = profile.to_toml()
    if output is None:
        sys.stdout.write(text)
    elif output.exists():
        raise ConflictError(f"{output} exists", hint="give another --output, or remove it")
    else:
        write_private(output.absolute(), text)
        say(f"{output}: network {name}")
    if private:
        say("The file holds the network's key: give it only to those who may join.")


@app.command(epilog="Example: golemp2p network join lab.toml")
def join(
    source: Annotated[
        str, typer.Argument(help="A profile: a file or an https URL; - is stdin. Or the name of one that was joined.")
    ],
    data_dir: DataDir = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of another network of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep a network's profile and run on it from the next start on."""
    from golemp2p.profiles import JoinedNetworks, parse_profile

    where = locations_of(data_dir)
    joined = JoinedNetworks(where)
    known = source in joined.names() and not Path(source).is_file()
    profile = joined.get(source) if known else parse_profile(_read(source), source)
    joined.join(profile, replace=replace)
    if as_json:
        echo_json(_shown(profile, active=True))
    else:
        facts(_facts(profile))
    for key in _overridden(where):
        say(f"golemp2p: {where.config} says {key}, which counts more than the network's profile: remove that line")
    if where.running.exists():
        say("A node is running: it changes its network when it is started again.")


@app.command("list", epilog="Example: golemp2p network list --json")
def list_networks(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The networks that were joined; * marks the one that the node runs on."""
    from golemp2p.profiles import JoinedNetworks

    joined = JoinedNetworks(locations_of(data_dir))
    active = joined.active()
    profiles = [joined.get(name) for name in joined.names()]
    if as_json:
        echo_json([_shown(one, active=one == active) for one in profiles])
        return
    if active is None:
        none = "No network was joined" if not profiles else "None of them is chosen (golemp2p network join NAME)"
        say(f"{none}: the node runs on the one that its settings name.")
    if not profiles:
        return
    rows = [
        (
            ("* " if one == active else "  ") + one.name,
            "private" if one.private else "open",
            one.subnets.default,
            len(one.bootstrap),
        )
        for one in profiles
    ]
    table(("network", "kind", "subnet", "bootstrap"), rows)


@app.command(epilog="Example: golemp2p network leave lab")
def leave(name: Annotated[str, typer.Argument(help="Of a joined network.")], data_dir: DataDir = None) -> None:
    """Forget a network's profile, its key included."""
    from golemp2p.profiles import JoinedNetworks

    where = locations_of(data_dir)
    joined = JoinedNetworks(where)
    was_active = joined.active_name() == name
    joined.leave(name)
    said = f"Left {name}."
    if was_active:
        said += " The node's next start is on the network that its settings name"
        others = joined.names()
        said += f"; for another: golemp2p network join {others[0]}." if others else "."
    if where.running.exists():
        said += " A running node stays where it is until it is started again."
    say(said)


def _read(source: str) -> str:
    from golemp2p import limits

    if source == "-":
        return sys.stdin.read(limits.MAX_PROFILE_BYTES + 1)
    if "://" in source:
        return _fetch(source)
    try:
        with Path(source).expanduser().open() as file:
            return file.read(limits.MAX_PROFILE_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no file {source}", hint="a profile is made by: golemp2p network create") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {source}: {exc}") from exc


def _fetch(url: str) -> str:
    """Bounded; https, or http on loopback. Raises UsageError, NetworkError."""
    import httpx
    import trio

    from golemp2p import limits
    from golemp2p.networks.schema import check_url

    try:
        check_url(url)
    except ValueError as exc:
        raise UsageError(f"{url}: {exc}") from exc

    async def get() -> str:
        body = b""
        # For all of it: httpx's own timeout is for each piece, and pieces may come one by one for ever.
        with trio.fail_after(limits.PROFILE_FETCH_TIMEOUT_S):
            async with (
                httpx.AsyncClient(timeout=limits.PROFILE_FETCH_TIMEOUT_S) as client,
                client.stream("GET", url) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise NetworkError(f"{url} answers {response.status_code}", hint="is it the address of a profile?")
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > limits.MAX_PROFILE_BYTES:
                        break
        return body.decode("utf-8", "replace")

    try:
        return run_async(get)
    except trio.TooSlowError as exc:
        raise NetworkError(f"{url} did not come within {limits.PROFILE_FETCH_TIMEOUT_S:g} s") from exc
    except httpx.HTTPError as exc:
        raise NetworkError(f"cannot fetch {url}: {exc or type(exc).__name__}") from exc


def _overridden(where: Locations) -> list[str]:
    """Keys of the settings file that make the profile void."""
    from golemp2p.config import read_file

    section = read_file(where.config).get("net", {})
    keys = ("network", "psk", "bootstrap") if isinstance(section, dict) else ()
    return [f"net.{key}" for key in keys if section.get(key)]


def _facts(profile: NetworkProfile) -> list[tuple[str, object]]:
    payment = ", ".join(one.name for one in profile.payment.networks)
    return [
        ("network", profile.name),
        *([("about", profile.description)] if profile.description else []),
        ("kind", "private: nodes without its key stay out" if profile.private else "open"),
        ("subnet", profile.subnets.default),
        *(("bootstrap", address) for address in profile.bootstrap),
        ("payment", payment or "as the node's settings say"),
    ]


def _shown(profile: NetworkProfile, *, active: bool) -> dict[str, Any]:
    """Without the key."""
    text = tomllib.loads(profile.to_toml())
    text.pop("psk", None)
    return {**text, "private": profile.private, "active": active}


def profile_of(where: Locations, network: str | None) -> NetworkProfile | None:
    """What ``--network`` means: a profile's file, a joined network, or (None) just a name; without it the active one.

    Raises UsageError, NotFoundError.
    """
    from golemp2p.profiles import JoinedNetworks, parse_profile

    joined = JoinedNetworks(where)
    if network is None:
        return joined.active()
    if network.endswith(".toml"):
        return parse_profile(_read(network), network)
    if network in joined.names():
        return joined.get(network)
    if joined.names():
        say(
            f"golemp2p: {network} is none of the joined networks ({', '.join(joined.names())}):"
            " an open one of that name is meant"
        )
    return None


def net_overrides(profile: NetworkProfile | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Section ``net`` as the flags have it, over the profile that a flag named."""
    given = {name: value for name, value in flags.items() if value}
    return given if profile is None else {**profile.settings()["net"], **given, "network": profile.name}
