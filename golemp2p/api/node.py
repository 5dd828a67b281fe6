"""golemp2p's own calls (/golemp2p/v1), identity, version, health and metrics."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import trio
from fastapi import APIRouter, Depends, Query
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, Response

from golemp2p import __version__
from golemp2p.activity.service import ActivityService
from golemp2p.api.agreements import agreement_of
from golemp2p.api.auth import AppKey, AppKeys, Caller, current_caller
from golemp2p.api.market import demand_of, offer_of
from golemp2p.api.metrics import PaymentGauges
from golemp2p.api.moments import moment_of
from golemp2p.api.openapi import TEXT, answers
from golemp2p.api.verdicts import verdict_of
from golemp2p.config import Settings
from golemp2p.core.constraints import Terms, Ternary, evaluate, parse
from golemp2p.core.ids import AgreementId, SubscriptionId
from golemp2p.core.properties import flatten
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.errors import NotFoundError, PolicyError, UsageError
from golemp2p.identity import Signer
from golemp2p.market.outcomes import withdrawn
from golemp2p.market.service import MarketService
from golemp2p.net.port import Network
from golemp2p.networks import merge
from golemp2p.payment.service import PaymentService
from golemp2p.runtimes.probed import Runtimes
from golemp2p.storage import Storage
from golemp2p.storage import app_keys as rows
from golemp2p.wire.rest import market as market_rest
from golemp2p.wire.rest import node as rest

Me = Annotated[Caller, Depends(current_caller)]

CLI_KEY_NAME: Final = "cli"  # of the commands on the node's machine: it manages the others
MAX_OFFERS_SHOWN: Final = 1_000
OFFERS_AT_ONCE: Final = 100


@dataclass(frozen=True)
class NodeContext:
    settings: Settings
    signer: Signer
    network: Network
    market: MarketService
    activity: ActivityService
    payment: PaymentService
    storage: Storage
    keys: AppKeys
    runtimes: Runtimes
    rest_url: str
    started_at: float


def new_secret() -> str:
    return secrets.token_hex(16)


def make_router(node: NodeContext) -> APIRouter:
    router = APIRouter(tags=["node"])
    _open_routes(router, node)
    _own_routes(router, node)
    _key_routes(router, node)
    return router


def _open_routes(router: APIRouter, node: NodeContext) -> None:
    registry = CollectorRegistry()
    payments = PaymentGauges()
    registry.register(_Gauges(node))
    registry.register(payments)

    @router.get("/me", response_model=rest.Identity)
    async def me(caller: Me) -> Response:
        return JSONResponse({"identity": caller.address, "name": caller.key_name, "role": "manager"})

    @router.get("/version/get", response_model=rest.Version)
    async def version() -> Response:
        stamp = "2026-11-22T00:00:00Z"
        current = {
            "version": rest.YAGNA_VERSION,
            "name": f"golemp2p {__version__}",
            "seen": True,
            "releaseTs": stamp,
            "insertionTs": stamp,
            "updateTs": stamp,
        }
        return JSONResponse({"current": current, "pending": None})

    @router.get("/healthz", response_model=rest.Health)
    async def health() -> Response:
        return JSONResponse({"status": "ok", "peers": node.network.statistics().connections})

    @router.get("/metrics", response_class=Response, responses=answers(ok={200: TEXT}))
    async def metrics() -> Response:
        payments.states = await node.payment.status()
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


def _reachability(network: Network) -> rest.Reachability:
    found = network.reachability()
    return rest.Reachability(
        reach=found.reach.value, reason=found.reason, advice=found.advice, relays=list(found.relays)
    )


def _own_routes(router: APIRouter, node: NodeContext) -> None:
    @router.get("/golemp2p/v1/status", response_model=rest.Status)
    async def status(_caller: Me) -> Response:
        now = time.time()
        book = node.market.book
        body = rest.Status(
            version=__version__,
            peer_id=node.signer.peer_id,
            address=node.signer.address,
            addresses=list(node.network.addresses()),
            rest_url=node.rest_url,
            network=node.settings.net.network,
            subnet=node.settings.net.subnet,
            uptime_s=round(now - node.started_at, 3),
            peers=node.network.statistics().connections,
            reachability=_reachability(node.network),
            offers=sum(1 for _ in book.live(RecordKind.OFFER, now)),
            demands=sum(1 for _ in book.live(RecordKind.DEMAND, now)),
            own_offers=len(node.market.subscriptions.all(RecordKind.OFFER)),
            own_demands=len(node.market.subscriptions.all(RecordKind.DEMAND)),
            activities=len(await node.activity.records(live_only=True)),
            payment_platforms=[account.platform for account in node.payment.accounts()],
            journal_problem=node.payment.journal_problem or None,
        )
        return JSONResponse(body.to_json())

    @router.post("/golemp2p/v1/selftest", response_model=rest.SelfTest)
    async def selftest(_caller: Me) -> Response:
        found = await node.market.selftest.run()
        body = rest.SelfTest(
            reachability=_reachability(node.network),
            own_offers=found.offers,
            asked=[rest.Asked(peer_id=a.peer, held=a.held, problem=a.problem) for a in found.asked],
            seen=found.seen,
        )
        return JSONResponse(body.to_json())

    @router.get("/golemp2p/v1/peers", response_model=list[rest.Peer])
    async def peers(_caller: Me) -> Response:
        found = [
            rest.Peer(
                peer_id=p.peer,
                addresses=list(p.addresses),
                connected=p.connected,
                direction=p.direction,
                relayed=p.relayed,
                round_trip_ms=None if p.round_trip_s is None else round(p.round_trip_s * 1000, 2),
            )
            for p in node.network.peers()
        ]
        return JSONResponse([p.to_json() for p in found])

    @router.get("/golemp2p/v1/runtimes", response_model=list[rest.RuntimeInfo])
    async def runtimes(_caller: Me) -> Response:
        """What this node can run, with the offer properties that describe it."""
        return JSONResponse([_runtime(name, node.runtimes).to_json() for name in node.runtimes])

    @router.get("/golemp2p/v1/runtimes/{runtime:path}", response_model=rest.RuntimeInfo, responses=answers(404))
    async def runtime(runtime: str, _caller: Me) -> Response:
        """One of them, tried out: the first call waits until it has run something for real."""
        if runtime not in node.runtimes:
            raise NotFoundError(f"this node has no runtime {runtime!r}", hint=f"it has: {', '.join(node.runtimes)}")
        await node.runtimes.probe(runtime)
        return JSONResponse(_runtime(runtime, node.runtimes).to_json())

    @router.get("/golemp2p/v1/offers", response_model=list[market_rest.KnownOffer])
    async def offers(
        _caller: Me,
        constraints: str = "()",
        subnet: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_OFFERS_SHOWN)] = 100,
    ) -> Response:
        """Live offers whose properties meet ``constraints``."""
        wanted = parse(constraints)

        def judge(offer: MarketRecord) -> dict[str, object] | None:
            if evaluate(wanted, offer.properties) is not Ternary.TRUE:
                return None
            heard = moment_of(node.market.book.heard_at(offer.id))
            return market_rest.KnownOffer(**offer_of(offer).model_dump(), heard=heard).to_json()

        return JSONResponse(await _look_through(node, subnet, judge, limit))

    @router.get("/golemp2p/v1/demands", response_model=list[market_rest.Demand])
    async def demands(_caller: Me) -> Response:
        """The live demands of all agents of this node."""
        own = node.market.subscriptions.all(RecordKind.DEMAND)
        return JSONResponse([demand_of(subscription.record).to_json() for subscription in own])

    @router.post("/golemp2p/v1/explain", response_model=list[rest.OfferVerdict], responses=answers(404))
    async def explain_demand(body: rest.DemandTerms, _caller: Me) -> Response:
        """For each live offer (a thousand at most), and what providers without one offered lately: whether it matches
        this demand, and what keeps it from an agreement."""
        if body.demand_id is not None:
            own = node.market.subscriptions.get(SubscriptionId(body.demand_id), RecordKind.DEMAND).record
            demand, subnet = own.terms, own.subnet
        else:
            demand = Terms(flatten(body.properties), body.constraints)
            subnet = str(demand.properties.get("golem.node.debug.subnet", node.settings.net.subnet))
        parse(demand.constraints)
        outcomes = node.market.negotiation.outcomes

        def told(offer: MarketRecord) -> dict[str, object]:
            return verdict_of(demand, offer, outcomes.of(offer.id)).to_json()

        found = await _look_through(node, subnet, told, MAX_OFFERS_SHOWN)
        for offer, at in node.market.book.gone(time.time(), subnet=subnet):
            found.append(verdict_of(demand, offer, outcomes.of(offer.id) or withdrawn(at)).to_json())
        return JSONResponse(found[:MAX_OFFERS_SHOWN])

    @router.get(
        "/golemp2p/v1/agreements/{agreement}",
        response_model=rest.AgreementProof,
        responses=answers(404),
        name="agreement_proof",
    )
    async def agreement(agreement: str, _caller: Me) -> Response:
        """The agreement with what one needs to check both signatures offline."""
        found = await node.market.agreements.get(AgreementId(agreement))
        checks = node.market.agreements.verify(found)
        body = {
            "agreement": agreement_of(found).to_json(),
            "role": found.role.value,
            "requestor": found.requestor,
            "provider": found.provider,
            "content": found.content.decode(),
            "createdAtMs": round(found.created_at * 1000),
            "validToMs": round(found.valid_to * 1000),
            "network": node.settings.net.network,
            "chainId": merge(node.settings.payment.networks[0]).chain_id if node.settings.payment.networks else 0,
            "requestorSignature": found.requestor_signature.hex(),
            "providerSignature": found.provider_signature.hex(),
            "verified": checks,
            "endReason": None if found.end_reason is None else dict(found.end_reason),
        }
        return JSONResponse(body)


def _runtime(name: str, runtimes: Runtimes) -> rest.RuntimeInfo:
    runtime, probe = runtimes[name], runtimes.probed(name)
    return rest.RuntimeInfo(
        id=name,
        name=runtime.name,
        version=runtime.version,
        properties=dict(runtime.offer_properties()),
        works=None if probe is None else probe.works,
        reason="" if probe is None else probe.reason,
        hint="" if probe is None else probe.hint,
        measured={} if probe is None else dict(probe.measured),
    )


async def _look_through(
    node: NodeContext, subnet: str | None, judge: Callable[[MarketRecord], dict[str, object] | None], limit: int
) -> list[dict[str, object]]:
    """What ``judge`` makes of live offers. Other tasks run now and then: a full book takes a second to go through."""
    found: list[dict[str, object]] = []
    for number, offer in enumerate(node.market.book.live(RecordKind.OFFER, time.time(), subnet=subnet), 1):
        if number % OFFERS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        if (line := judge(offer)) is not None:
            found.append(line)
            if len(found) == limit:
                break
    return found


def _key_routes(router: APIRouter, node: NodeContext) -> None:
    @router.get("/golemp2p/v1/app-keys", response_model=list[rest.AppKey])
    async def all_keys(caller: Me) -> Response:
        """The secrets only for the node's own commands: an agent must not learn another one's key."""
        return JSONResponse(
            [
                {
                    "name": k.name,
                    **({"key": k.key} if caller.key_name == CLI_KEY_NAME else {}),
                    "id": node.signer.address,
                    "role": "manager",
                    "origins": [*k.cors_origins],
                }
                for k in node.keys.all()
            ]
        )

    @router.post("/golemp2p/v1/app-keys", status_code=201, response_model=rest.CreatedAppKey)
    async def create_key(body: rest.NewAppKey, caller: Me) -> Response:
        _require_cli(caller)
        if "/" in body.name or body.name in (".", ".."):
            raise UsageError(f"{body.name!r} is no name of an app-key", hint="it must fit into a path: no /")
        if any(k.name == body.name for k in node.keys.all()):
            raise UsageError(
                f"there is an app-key {body.name!r} already",
                hint=f"choose another name, or golemp2p app-key drop {body.name}",
            )
        key = AppKey(body.name, new_secret(), tuple(body.origins))
        await node.storage.run(lambda c: rows.put_app_key(c, key.name, key.key, key.cors_origins, time.time()))
        node.keys.put(key)
        return JSONResponse({"name": key.name, "key": key.key}, status_code=201)

    @router.delete("/golemp2p/v1/app-keys/{name}", status_code=204, responses=answers(404))
    async def remove_key(name: str, caller: Me) -> Response:
        _require_cli(caller)
        if not node.keys.remove(name):
            raise NotFoundError(f"there is no app-key {name!r}")
        await node.storage.run(lambda c: rows.remove_app_key(c, name))
        return Response(status_code=204)


def _require_cli(caller: Caller) -> None:
    """Raises PolicyError."""
    if caller.key_name != CLI_KEY_NAME:
        raise PolicyError(
            f"app-key {caller.key_name!r} may not make or remove app-keys",
            hint="golemp2p app-key does it on the node's machine, without --app-key or a key in the environment",
        )


class _Gauges(Collector):
    """Read when scraped; present at zero."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node, now = self._node, time.time()
        net, database = node.network.statistics(), node.storage.statistics()
        values: dict[str, tuple[str, float]] = {
            "net_connections": ("open libp2p connections", net.connections),
            "net_streams_opened": ("streams that we opened", net.streams_opened),
            "net_streams_accepted": ("streams that peers opened", net.streams_accepted),
            "net_gossip_published": ("gossip messages published", net.gossip_published),
            "net_gossip_received": ("gossip messages received", net.gossip_received),
            "net_gossip_dropped": ("gossip messages dropped or refused", net.gossip_dropped),
            "market_records": ("market records known", len(node.market.book)),
            "market_offers": ("live offers known", sum(1 for _ in node.market.book.live(RecordKind.OFFER, now))),
            "storage_jobs": ("database jobs done", database.jobs),
            "storage_commits": ("database commits", database.commits),
            "storage_waiting": ("database jobs that wait", database.waiting),
            "uptime_seconds": ("seconds since the node started", now - node.started_at),
        }
        for name, (what, value) in values.items():
            yield GaugeMetricFamily(f"golemp2p_{name}", what, value=value)
