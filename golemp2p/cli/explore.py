"""`golemp2p status`, `peers`, `offers`: what the running node knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo_json, facts, table, with_client

if TYPE_CHECKING:
    from golemp2p.wire.rest.node import Peer, SelfTest

REACH: Final = {
    "unknown": "not known yet",
    "public": "directly",
    "relayed": "through relays only",
    "unreachable": "NOT",
}

ALONE: Final = (
    "no peer: is the network's bootnode up, and is the profile that was joined the one that it wrote"
    " (name, key, addresses)? The node's log names the addresses that it tried"
)
ALONE_AFTER_S: Final = 15.0  # of being up: a bootnode that is there was reached by then


def _number(value: object, factor: float = 1) -> str:
    """Four digits; "?" for what is no number that a price could be. Offers are written by others."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return "?"
    return f"{value * factor:.4g}"


def _text(value: object) -> str:
    """What fits a cell, without the control characters that a terminal would obey."""
    if isinstance(value, int) and abs(value) > 2**63:  # str() refuses the largest
        return "?"
    return "".join(c if c.isprintable() else "?" for c in str(value))[:40]


def _state(peer: Peer) -> str:
    if not peer.connected:
        return "known"
    return f"connected {peer.direction}{', relayed' if peer.relayed else ''}"


def judged(test: SelfTest) -> tuple[bool, str]:
    """Whether the node is as it should be, and in words; what could not be tried is not called good."""
    if test.reachability.reach == "unreachable" or (test.own_offers and test.asked and not test.seen):
        return False, "others do not see this node as they should"
    if all(one.problem for one in test.asked):
        return False, ALONE if not test.asked else "no peer could say"
    if not test.own_offers:
        return True, "peers answer; this node has no offer that they could hold"
    return True, "all is well" if test.reachability.reach != "unknown" else "all is well as far as it is known"


def add_to(app: typer.Typer) -> None:
    @app.command(epilog="Example: golemp2p status --json")
    def status(
        data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
    ) -> None:
        """Who the node is, what it sees, what it does."""
        found = with_client(data_dir, api_url, app_key, lambda c: c.node.status())
        if as_json:
            echo_json(found.to_json())
            return
        facts(
            [
                ("peer id", found.peer_id),
                ("address", found.address),
                *(("listening", address) for address in found.addresses),
                ("rest", found.rest_url),
                ("network", f"{found.network} / {found.subnet}"),
                ("up", f"{found.uptime_s:.0f} s"),
                ("peers", found.peers),
                ("reachable", f"{REACH[found.reachability.reach]}: {found.reachability.reason}"),
                *((("what to do", found.reachability.advice),) if found.reachability.advice else ()),
                *((("what to do", ALONE),) if not found.peers and found.uptime_s > ALONE_AFTER_S else ()),
                ("offers", f"{found.offers} known, {found.own_offers} own"),
                ("demands", f"{found.demands} known, {found.own_demands} own"),
                ("activities", found.activities),
                ("payment", ", ".join(found.payment_platforms) or "no payment network configured"),
                *((("PROBLEM", found.journal_problem),) if found.journal_problem else ()),
            ]
        )

    @app.command(epilog="Example: golemp2p selftest --json")
    def selftest(
        data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
    ) -> None:
        """Can others reach this node, and do they see its offers? Asks two peers. Exit code 1 when not."""
        found = with_client(data_dir, api_url, app_key, lambda c: c.node.selftest())
        reach = found.reachability
        works, verdict = judged(found)
        if as_json:
            echo_json(found.to_json())
        else:
            facts(
                [
                    ("reachable", f"{REACH[reach.reach]}: {reach.reason}"),
                    *((("what to do", reach.advice),) if reach.advice else ()),
                    ("own offers", found.own_offers),
                    *(
                        ("asked", f"{one.peer_id}: " + (one.problem or f"holds {one.held} of {found.own_offers}"))
                        for one in found.asked
                    ),
                    ("verdict", verdict),
                ]
            )
        raise typer.Exit(0 if works else 1)

    @app.command(epilog="Example: golemp2p peers --json")
    def peers(
        data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
    ) -> None:
        """The peers that the node is connected to or knows."""
        found = with_client(data_dir, api_url, app_key, lambda c: c.node.peers())
        if as_json:
            echo_json([p.to_json() for p in found])
            return
        rows = [
            (
                p.peer_id,
                _state(p),
                "" if p.round_trip_ms is None else f"{p.round_trip_ms} ms",
                " ".join(p.addresses),
            )
            for p in found
        ]
        table(("peer", "state", "ping", "addresses"), rows)

    @app.command(epilog="Example: golemp2p offers '(golem.runtime.name=wasmtime)' --limit 20")
    def offers(
        constraint: Annotated[str, typer.Argument(help="Show offers that meet it.")] = "()",
        data_dir: DataDir = None,
        api_url: ApiUrl = None,
        app_key: AppKeyOption = None,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 100,
        as_json: AsJson = False,
    ) -> None:
        """Live offers that the node knows."""
        found = with_client(data_dir, api_url, app_key, lambda c: c.node.offers(constraint, limit=limit))
        if as_json:
            echo_json([o.to_json() for o in found])
            return
        rows = []
        for offer in found:
            p = offer.properties
            coeffs = p.get("golem.com.pricing.model.linear.coeffs")
            prices = [_number(c, 3600) for c in coeffs] if isinstance(coeffs, list) else []
            start = _number(coeffs[-1]) if isinstance(coeffs, list) and coeffs else ""
            rows.append(
                (
                    _text(p.get("golem.node.id.name", "")),
                    offer.provider_id,
                    _text(p.get("golem.runtime.name", "")),
                    _text(p.get("golem.!exp.golemp2p.isolation", "")),
                    _text(p.get("golem.inf.cpu.threads", "")),
                    _text(p.get("golem.inf.mem.gib", "")),
                    " / ".join(prices[:2]),
                    start,
                    offer.offer_id[:8],
                )
            )
        columns = (
            "name",
            "provider",
            "runtime",
            "isolation",
            "threads",
            "mem GiB",
            "GLM/h wall / cpu",
            "start",
            "offer",
        )
        table(columns, rows)
