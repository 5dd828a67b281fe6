"""`golemp2p bootnode`: where a network begins."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import AsJson, DataDir, echo, echo_json, facts, locations_of, run_async, say
from golemp2p.cli.network import net_overrides, profile_of
from golemp2p.cli.serving import until_signal

if TYPE_CHECKING:
    import trio

    from golemp2p.config import Settings
    from golemp2p.identity import NodeKey
    from golemp2p.locations import Locations
    from golemp2p.profiles import NetworkProfile


def add_to(app: typer.Typer) -> None:
    @app.command(
        epilog="Example: golemp2p bootnode --network lab.toml --announce /ip4/192.0.2.7/tcp/11155 --profile join.toml"
    )
    def bootnode(
        data_dir: DataDir = None,
        network: Annotated[
            str | None,
            typer.Option("--network", help="Network: its name, one that was joined, or a profile's FILE.toml."),
        ] = None,
        listen: Annotated[
            list[str] | None, typer.Option("--listen", help="Multiaddr to listen on; repeatable.")
        ] = None,
        announce: Annotated[
            list[str] | None, typer.Option("--announce", help="Multiaddr that others reach this node at; repeatable.")
        ] = None,
        bootstrap: Annotated[
            list[str] | None, typer.Option("--bootstrap", help="Another bootnode; repeatable.")
        ] = None,
        profile: Annotated[
            Path | None, typer.Option("--profile", help="Write the profile to join with, this node's addresses in it.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Run a node without a market: others find each other here, and reach each other through it.

        It makes a key of its own at the first start (with its password beside it: no money is ever on it).
        """
        from golemp2p.config import load_settings

        where = locations_of(data_dir)
        chosen = profile_of(where, network)
        flags: dict[str, Any] = {"listen": listen, "announce": announce, "bootstrap": bootstrap, "network": network}
        settings = load_settings(
            where.config,
            {"net": net_overrides(chosen if network else None, flags)},
            defaults=chosen.settings() if chosen else None,
        )
        key = _own_key(where)
        raise typer.Exit(run_async(lambda: _serve(settings, where, key, chosen, profile, as_json=as_json)))


def _own_key(where: Locations) -> NodeKey:
    from golemp2p.cli.init import read_password
    from golemp2p.identity import NodeKey, create_keystore, unlock_keystore
    from golemp2p.profiles import write_private

    if where.keystore.exists():
        return unlock_keystore(where.keystore, read_password(None, where))
    key, password = NodeKey.generate(), secrets.token_urlsafe(24)
    write_private(where.password, password)
    create_keystore(where.keystore, key, password, light=True)
    say(f"golemp2p: made a key in {where.data}: keep that directory, the node's PeerId is in every profile")
    return key


def _for_others(addresses: list[str]) -> list[str]:
    """Without those on loopback, unless there are no others."""
    outside = [address for address in addresses if not address.startswith(("/ip4/127.", "/ip6/::1/"))]
    return outside or addresses


async def _serve(
    settings: Settings,
    where: Locations,
    key: NodeKey,
    network: NetworkProfile | None,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    import json

    from golemp2p import log
    from golemp2p.bootnode import open_bootnode
    from golemp2p.profiles import NetworkProfile, write_private
    from golemp2p.wiring import only_one

    log.configure(settings.log.level, settings.log.format)

    async def serve(_nursery: trio.Nursery, stop: trio.Event) -> None:
        with only_one(where):
            async with open_bootnode(settings, where, key) as node:
                found = node.facts()
                if output is not None:
                    base = network or NetworkProfile(name=settings.net.network, psk=settings.net.psk)
                    known = list(dict.fromkeys([*_for_others(found["addresses"]), *base.bootstrap]))
                    write_private(output, base.model_copy(update={"bootstrap": known}).to_toml())
                write_private(where.running, json.dumps(found))
                try:
                    if as_json:
                        echo_json(found)
                    else:
                        kind = "private" if found["private"] else "open"
                        facts(
                            [
                                ("peer id", found["peer_id"]),
                                *(("listening", address) for address in found["addresses"]),
                                ("network", f"{found['network']} ({kind})"),
                                *([("profile", output)] if output else []),
                            ]
                        )
                        echo("ready")
                    await stop.wait()
                finally:
                    where.running.unlink(missing_ok=True)

    return await until_signal(serve)
