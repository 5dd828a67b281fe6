"""The composition root: builds the services of one node, wires them, runs them in one nursery.

The only module that knows them all. ``async with open_node(...) as node`` is a running node; leaving it withdraws
the node's offers and demands and closes everything in order.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
import trio
from fastapi import FastAPI

from golemp2p import __version__
from golemp2p.abandoned import end_abandoned, end_silent_demands
from golemp2p.activity.http import HttpTransfers
from golemp2p.activity.receipts import Notary
from golemp2p.activity.service import ActivityService
from golemp2p.api import activity as activity_api
from golemp2p.api import channels as channels_api
from golemp2p.api import files as files_api
from golemp2p.api import gsb as gsb_api
from golemp2p.api import images as images_api
from golemp2p.api import market as market_api
from golemp2p.api import net as net_api
from golemp2p.api import node as node_api
from golemp2p.api import payment as payment_api
from golemp2p.api import remote as remote_api
from golemp2p.api import scans as scans_api
from golemp2p.api import unsupported as unsupported_api
from golemp2p.api import wallet as wallet_api
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.api.presence import Presence
from golemp2p.api.server import serve_rest
from golemp2p.config import Settings
from golemp2p.core.agreement import Agreement, AgreementState
from golemp2p.core.ids import ActivityId, Address, AgreementId, PeerId
from golemp2p.core.manifest import OutboundRule, check_whitelist
from golemp2p.core.money import parse_amount
from golemp2p.core.peer import address_of
from golemp2p.errors import NotFoundError, UsageError
from golemp2p.gsb.files import ServedFiles
from golemp2p.gsb.services import Services
from golemp2p.identity import NodeKey
from golemp2p.locations import Locations
from golemp2p.market.rendezvous import Spread
from golemp2p.market.service import MarketService
from golemp2p.net.data import DataService
from golemp2p.net.lanes import Lanes, listen_place
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.networks import merge
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.networks import PaymentNetwork, of_profile
from golemp2p.payment.ports import PaymentSettings
from golemp2p.payment.purse import Caps
from golemp2p.payment.service import PaymentService
from golemp2p.profiles import write_private
from golemp2p.runtimes.registry import make_runtimes
from golemp2p.storage import Storage, open_storage
from golemp2p.storage import app_keys as app_key_rows
from golemp2p.storage.content import ContentStore
from golemp2p.vpn.service import VpnService
from golemp2p.wiring import domain_of, net_config, only_one

log = structlog.get_logger("golemp2p.node")

AUTO_KEY_ENV: Final = ("GOLEMP2P_APPKEY", "YAGNA_AUTOCONF_APPKEY")
CLI_KEY_NAME: Final = node_api.CLI_KEY_NAME
WITHDRAW_TIMEOUT_S: Final = 2.0
ENDED: Final = frozenset({AgreementState.TERMINATED, AgreementState.CANCELLED, AgreementState.EXPIRED})


@dataclass(frozen=True)
class Node:
    """A running node."""

    settings: Settings
    key: NodeKey
    network: Network
    market: MarketService
    activity: ActivityService
    payment: PaymentService
    storage: Storage
    app: FastAPI
    keys: AppKeys
    rest_url: str
    app_key: str  # of the commands on this machine and of the provider agent beside the node


class _AgreementLookup:
    def __init__(self, market: MarketService) -> None:
        self._market = market

    async def agreement(self, agreement_id: AgreementId) -> Agreement:
        return await self._market.agreements.usable(agreement_id)


def _activity_check(activity: ActivityService) -> Callable[[AgreementId, ActivityId], Awaitable[bool]]:
    """Whether we, as requestor, made this activity under this agreement."""

    async def knows(agreement_id: AgreementId, activity_id: ActivityId) -> bool:
        if activity.requestor.asked_for(agreement_id, activity_id):
            return True
        try:
            return (await activity.requestor.record(activity_id)).agreement_id == agreement_id
        except NotFoundError:
            return False

    return knows


def _peer_finder(network: Network, market: MarketService) -> Callable[[Address], Awaitable[PeerId | None]]:
    """Which peer an address belongs to: among those we know, and those we have agreements with."""

    async def find(address: Address) -> PeerId | None:
        # From memory: peers make us ask for a thousand addresses at a time.
        peers = [*(info.peer for info in network.peers()), *market.agreements.partners()]
        return next((peer for peer in peers if address_of(peer) == address), None)

    return find


def payment_networks(settings: Settings) -> list[PaymentNetwork]:
    """Raises UsageError, e.g. for an environment variable that should hold a URL and is not set."""
    return [of_profile(merge(entry), os.environ) for entry in settings.payment.networks]


def spending_caps(settings: Settings) -> Caps:
    caps = settings.payment.caps
    return Caps(
        per_day=parse_amount(caps.per_day) if caps.per_day else None,
        per_agreement=parse_amount(caps.per_agreement) if caps.per_agreement else None,
    )


def channel_settings(settings: Settings) -> ChannelSettings:
    section = settings.payment.channels
    return ChannelSettings(
        mode=settings.payment.mode,
        deposit=parse_amount(section.deposit) if section.deposit else None,
        grace_s=section.grace_s,
        open_timeout_s=section.open_timeout_s,
        idle_close_s=section.idle_close_s,
        min_grace_s=section.min_grace_s,
        claim_threshold=parse_amount(section.claim_threshold),
        claim_after_s=section.claim_after_s,
        claim_on_invoice=section.claim_on_invoice,
    )


async def _load_keys(storage: Storage, locations: Locations, origins: Sequence[str]) -> tuple[AppKeys, str]:
    """The stored app-keys, one from the environment if given, and the one of the local commands."""
    stored = await storage.run(app_key_rows.list_app_keys)
    keys = AppKeys([AppKey(*row) for row in stored], origins=origins)
    for variable in AUTO_KEY_ENV:
        if secret := os.environ.get(variable):
            if len(secret) < 8:
                raise UsageError(f"{variable} is shorter than 8 characters")
            if any(key.key == secret for key in keys.all()):
                continue  # known under another name, which keeps its rights
            keys.put(AppKey(variable.lower(), secret))
    cli = next((key.key for key in keys.all() if key.name == CLI_KEY_NAME), None)
    if cli is None:
        cli = node_api.new_secret()
        await storage.run(lambda c: app_key_rows.put_app_key(c, CLI_KEY_NAME, cli, (), time.time()))
        keys.put(AppKey(CLI_KEY_NAME, cli))
    write_private(locations.app_key, cli)
    return keys, cli


def bind_rest(listen: str) -> socket.socket:
    """The REST socket; port 0 is any free one. Raises UsageError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port[:6]) > 65_535:
        raise UsageError(f"REST address {listen!r} is not HOST:PORT", hint="for example --rest 127.0.0.1:7465")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), int(port[:6])))
        bound.listen(512)
    except (OSError, ValueError) as exc:  # ValueError: a host name that IDNA refuses
        bound.close()
        raise UsageError(f"cannot listen on {listen}: {exc}", hint="choose another with --rest HOST:PORT") from exc
    return bound


@asynccontextmanager
async def open_node(
    settings: Settings,
    locations: Locations,
    key: NodeKey,
    *,
    network: Network | None = None,
    voucher_key: NodeKey | None = None,
) -> AsyncIterator[Node]:
    """Start a node; ready when entered. ``network``: another adapter than libp2p (tests, simulation);
    ``voucher_key``: signs vouchers of payment channels instead of ``key``."""
    with only_one(locations), bind_rest(settings.rest.listen) as rest_socket:
        async with open_storage(locations.database) as storage:
            if network is not None:
                async with _run_services(
                    settings, locations, key, voucher_key, storage, network, rest_socket, real=False
                ) as node:
                    yield node
            else:
                async with (
                    open_libp2p_network(key, net_config(settings, locations)) as libp2p,
                    _run_services(settings, locations, key, voucher_key, storage, libp2p, rest_socket) as node,
                ):
                    yield node


@asynccontextmanager
async def _run_services(
    settings: Settings,
    locations: Locations,
    key: NodeKey,
    voucher_key: NodeKey | None,
    storage: Storage,
    network: Network,
    rest_socket: socket.socket,
    *,
    real: bool = True,
) -> AsyncIterator[Node]:
    """``real``: the network is made of sockets, so bulk lanes may be, too."""
    domain = domain_of(settings)
    keys, app_key = await _load_keys(storage, locations, settings.rest.allowed_origins)
    rpc = Rpc(network)
    content = ContentStore(locations.content)
    services = Services()
    lanes = None
    if real and settings.net.lane:
        place, exact = listen_place(settings.net.lane_listen, settings.net.listen)
        lanes = Lanes(network, place, exact=exact)
    served = ServedFiles(services, lambda peer: activity.requestor.works_for_us(peer))
    data = DataService(network, content, served, lanes)
    market = MarketService(
        storage=storage,
        signer=key,
        domain=domain,
        network=network,
        rpc=rpc,
        clock=time.time,
        spread=Spread(settings.net.spread),
        allows=settings.net.allows,
    )
    runtimes = make_runtimes(settings, locations)
    find_peer = _peer_finder(network, market)
    vpn = VpnService(
        network,
        rpc,
        find_peer,
        rule=OutboundRule(check_whitelist(settings.provider.outbound.whitelist)),
    )
    activity = ActivityService(
        storage=storage,
        rpc=rpc,
        data=data,
        content=content,
        agreement=market.agreements.usable,
        runtimes=runtimes,
        work_root=locations.work,
        notary=Notary(key, domain, time.time),
        vpn=vpn.provider,
        http=HttpTransfers(settings.provider.http_transfers),
        substitutes=settings.provider.package_substitutes,
    )
    drivers: dict[str, ChainDriver] = {n.platform: Erc20Driver(n) for n in payment_networks(settings)}
    payment = PaymentService(
        storage=storage,
        rpc=rpc,
        agreements=_AgreementLookup(market),
        signer=key,
        domain=domain,
        drivers=drivers,
        clock=time.time,
        settings=PaymentSettings(
            auto_accept_after_s=settings.payment.auto_accept_after_s or None,
            caps=spending_caps(settings),
            channels=channel_settings(settings),
        ),
        knows_activity=_activity_check(activity),
        voucher_signer=voucher_key,
    )
    market.agreements.before_confirm = payment.channels.prepare
    network.add_peer_listener(payment.on_peer)
    rest_url = "http://{}:{}".format(*rest_socket.getsockname()[:2])
    context = node_api.NodeContext(
        settings=settings,
        signer=key,
        network=network,
        market=market,
        activity=activity,
        payment=payment,
        storage=storage,
        keys=keys,
        runtimes=runtimes,
        rest_url=rest_url,
        started_at=time.time(),
    )
    announce = data.sharing.announce_content
    presence = Presence()
    registry = images_api.Registry(locations.images, content, settings.registry.aliases, announce)
    app = make_app(
        [
            node_api.make_router(context),
            market_api.make_router(market),
            scans_api.make_router(market.scans),
            activity_api.make_router(activity),
            files_api.make_router(content, announce),
            gsb_api.make_router(services),
            remote_api.make_router(content, data, find_peer),
            payment_api.make_router(payment),
            wallet_api.make_router(payment),
            channels_api.make_router(payment),
            net_api.make_router(vpn.requestor),
            images_api.make_router(registry, rest_url),
            unsupported_api.make_router(),
        ],
        keys=keys,
        address=key.address,
        allowed_hosts=frozenset(settings.rest.allowed_hosts),
        presence=presence,
    )
    node = Node(settings, key, network, market, activity, payment, storage, app, keys, rest_url, app_key)
    async with trio.open_nursery() as nursery:
        await nursery.start(rpc.run)
        if lanes is not None:
            await nursery.start(lanes.run)
        data.serve()
        nursery.start_soon(data.run)
        _end_activities_with_their_agreement(nursery, market, activity)
        await nursery.start(market.run, settings.net.subnet)
        await nursery.start(vpn.run)
        await nursery.start(activity.run)
        await nursery.start(payment.run)
        silence_s = settings.rest.agent_silence_s
        nursery.start_soon(
            partial(
                end_abandoned,
                market.agreements,
                activity,
                presence,
                silence_s=silence_s,
                clock=time.time,
                places_of=vpn.requestor.places_of,
                documents_of=payment.documents_of,
            )
        )
        nursery.start_soon(end_silent_demands, market, presence, time.time)
        await nursery.start(serve_rest, app, rest_socket)
        facts = facts_of(node)
        write_private(locations.running, json.dumps(facts))
        log.info("node_ready", **{name: facts[name] for name in ("peer_id", "address", "rest_url")})
        try:
            yield node
        finally:
            with trio.move_on_after(WITHDRAW_TIMEOUT_S, shield=True):
                await market.subscriptions.withdraw_all()
                await trio.sleep(0.1)  # let the withdrawals leave before the sockets close
            locations.running.unlink(missing_ok=True)
            nursery.cancel_scope.cancel()


def _end_activities_with_their_agreement(
    nursery: trio.Nursery, market: MarketService, activity: ActivityService
) -> None:
    def changed(agreement: Agreement) -> None:
        if agreement.state in ENDED:
            nursery.start_soon(activity.on_agreement_ended, agreement.id)

    market.agreements.add_listener(changed)


def facts_of(node: Node) -> dict[str, Any]:
    """What `golemp2p run` prints and what the other commands find the node by."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "peer_id": node.key.peer_id,
        "address": node.key.address,
        "addresses": list(node.network.addresses()),
        "rest_url": node.rest_url,
        "network": node.settings.net.network,
        "subnet": node.settings.net.subnet,
    }
