"""`golemp2p explain`: why no provider does it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo, echo_json, say, table, with_client
from golemp2p.errors import UsageError

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.wire.rest.node import OfferVerdict


def add_to(app: typer.Typer) -> None:
    @app.command(epilog="Example: golemp2p explain '(&(golem.runtime.name=vm)(golem.inf.mem.gib>=64))'")
    def explain(
        demand: Annotated[
            str | None,
            typer.Argument(
                help="Constraints, a JSON file {properties, constraints} (- is stdin), or the id of an own demand;"
                " default: all demands of this node.",
                show_default=False,
            ),
        ] = None,
        data_dir: DataDir = None,
        api_url: ApiUrl = None,
        app_key: AppKeyOption = None,
        as_json: AsJson = False,
    ) -> None:
        """Say for each provider seen why it does not take a demand: clause, price, capacity, unreachable, busy, …"""

        async def ask(client: NodeClient) -> list[tuple[str, list[OfferVerdict]]]:
            if demand is None:
                own = [one.demand_id for one in await client.node.demands()]
                return [(name, await client.node.explain_demand(name)) for name in own]
            if demand.startswith("("):
                # What every agent says of its demand, so that offers' rules about it are not to blame.
                usual = {
                    "golem.srv.comp.expiration": round((time.time() + 3600) * 1000),
                    "golem.node.debug.subnet": (await client.node.status()).subnet,
                }
                return [(demand, await client.node.explain(usual, demand))]
            if demand == "-" or Path(demand).is_file():  # noqa: ASYNC240 - one small local file
                terms = _read(demand)
                return [(demand, await client.node.explain(terms["properties"], terms["constraints"]))]
            return [(demand, await client.node.explain_demand(demand))]

        found = with_client(data_dir, api_url, app_key, ask)
        if as_json:
            echo_json([{"demand": name, "offers": [v.to_json() for v in verdicts]} for name, verdicts in found])
            return
        if not found:
            say("This node has no demand. Give constraints: golemp2p explain '(golem.runtime.name=vm)'")
        for name, verdicts in found:
            _show(name, verdicts)


def _show(demand: str, verdicts: list[OfferVerdict]) -> None:
    if not verdicts:
        echo(f"{demand}: no offer is known. Is the node connected (golemp2p status), is it the right subnet?")
        return
    counts = Counter(verdict.cause for verdict in verdicts)
    told = ", ".join(f"{count} {'match' if cause == 'none' else cause}" for cause, count in counts.most_common())
    rows = [
        (
            verdict.provider_name or verdict.provider_id[:10],
            "matches" if verdict.cause == "none" else verdict.cause,
            why(verdict),
            "" if verdict.price_per_hour is None else f"{verdict.price_per_hour:.6g}",
        )
        for verdict in sorted(verdicts, key=lambda v: (v.cause != "none", v.cause))
    ]
    table(("provider", "verdict", "why", "GLM/h"), rows, title=f"{demand}\n{len(verdicts)} offers: {told}")


def why(verdict: OfferVerdict) -> str:
    """One line: the failed clauses and what there is instead, or what became of the last attempt."""
    last = verdict.last_attempt
    if verdict.cause in ("unreachable", "refused", "withdrawn") and last is not None:
        code = f"{last.code}: " if last.code else ""
        return f"{last.at:%H:%M:%S} {code}{last.message}"
    if verdict.cause == "none":
        return "not tried yet, or agreed"
    clauses = [*verdict.demand_clauses, *(f"the offer's {clause}" for clause in verdict.offer_clauses)]
    has = f"; {', '.join(verdict.has)}" if verdict.has else ""
    return f"{' '.join(clauses)} fails{has}"


def _read(name: str) -> dict[str, Any]:
    try:
        found = json.loads(sys.stdin.read() if name == "-" else Path(name).read_text())
    except (OSError, ValueError, RecursionError) as exc:
        raise UsageError(f"cannot read a demand from {name}: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("constraints"), str):
        raise UsageError(f"{name} holds no demand", hint='{"properties": {…}, "constraints": "(…)"}')
    return {"properties": dict(found.get("properties", {})), "constraints": found["constraints"]}
