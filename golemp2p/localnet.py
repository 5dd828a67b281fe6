"""A network of one's own on this machine: a local chain, one requestor node, N provider nodes, each a process.

Everything lives in one directory and dies with this process. Tests, the demo and `golemp2p localnet` build on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import tomli_w
import trio

from golemp2p.client import NodeClient, connect
from golemp2p.core.money import ZERO, parse_amount
from golemp2p.errors import DeadlineError, NetworkError, UsageError
from golemp2p.identity import NodeKey, create_keystore
from golemp2p.images.store import ImageStore
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.localchain.chain import Kind
from golemp2p.localchain.child import Child, open_child
from golemp2p.locations import Locations
from golemp2p.provider.offer import MEMORY_SHARE, machine_memory_gib

# At a time, of each provider, as with Golem: golem-js takes a provider once into a network.
ACTIVITIES: Final = 1
STORAGE_GIB: Final = 20.0  # a promise that costs nothing until it is used; examples of Golem's clients ask for 2 to 16
READY_TIMEOUT_S: Final = 60.0  # a node on a busy two-core machine takes about 3 s
OFFERS_TIMEOUT_S: Final = 30.0
CHECK_INTERVAL_S: Final = 0.05
FUNDS_TGLM: Final = "1000"
GAS_WEI: Final = 10**18
CHANNEL_DEPOSIT: Final = "10"  # tGLM, for each provider
_SHA3: Final = re.compile(r"[0-9a-fA-F]{56}|[0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128}")
GLM_NETWORKS: Final = frozenset({"mainnet", "polygon"})  # yapapi and golem-js expect tglm on all others
COMMANDS: Final = ("golemp2p", "gftp", "yagna")  # that agents start; found before those of another installation


@dataclass(frozen=True)
class LocalNetOptions:
    """``settings`` go into every node's config file, ``provider`` into the providers' (section -> name -> value)."""

    providers: int = 2
    runtimes: tuple[str, ...] = ("wasmtime",)
    chain: Kind | None = None
    network_name: str = "local"  # as clients ask for it in (YAGNA_)PAYMENT_NETWORK; some programs name one themselves
    subnet: str = "public"  # some programs look for providers in one that they name themselves
    app_key: str | None = None  # of the requestor's agents; None is a fresh one
    rest: str = "127.0.0.1:0"  # of the requestor
    origins: tuple[str, ...] = ()  # of web pages that may call the requestor's node
    images: Mapping[str, str] = field(default_factory=dict)  # tag or hash that programs ask for -> image or file here
    agent_silence_s: float | None = None  # as of setting rest.agent_silence_s
    directory: Path | None = None  # kept; None is a temporary one
    payment_mode: Literal["batch", "channel"] = "batch"
    provider: Mapping[str, Any] = field(default_factory=dict)
    payment: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class LocalNode:
    """One node process. ``facts`` are what it said of itself when it was ready (`golemp2p run --json`)."""

    name: str
    key: NodeKey
    where: Locations
    app_key: str
    facts: dict[str, Any] = field(default_factory=dict)
    child: Child | None = None

    @property
    def rest_url(self) -> str:
        return str(self.facts["rest_url"])

    @property
    def log(self) -> Path:
        return self.where.data / "log"


@dataclass
class LocalNet:
    """A running network. ``env`` is what agents need to find it."""

    directory: Path
    chain: LocalChain
    requestor: LocalNode
    providers: list[LocalNode]
    env: dict[str, str]
    _stack: AsyncExitStack

    def client(self, node: LocalNode | None = None) -> AbstractAsyncContextManager[NodeClient]:
        """``async with net.client() as client``: of the requestor, or of ``node``."""
        chosen = node or self.requestor
        return connect(chosen.rest_url, chosen.app_key)

    async def restart(self, node: LocalNode) -> None:
        """Start ``node`` again after its process was killed; ready on return."""
        await _start(self._stack, node, provider=node is not self.requestor)


@asynccontextmanager
async def open_localnet(options: LocalNetOptions) -> AsyncIterator[LocalNet]:
    """Ready when entered: the requestor sees an offer of every provider. Raises GolemError."""
    async with AsyncExitStack() as stack:
        if options.directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golemp2p-localnet-")))
        else:
            directory = options.directory.absolute()
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        chain = await stack.enter_async_context(
            open_local_chain(prefer=options.chain, cache_dir=Locations.find().cache, standins=True)
        )
        network = f"localnet-{secrets.token_hex(4)}"
        nodes = [_make_node(directory, name) for name in _names(options.providers)]
        requestor, providers = nodes[0], nodes[1:]
        requestor.app_key = options.app_key or requestor.app_key
        await chain.faucet(requestor.key.address, tglm=parse_amount(FUNDS_TGLM), eth_wei=GAS_WEI)
        if options.payment_mode == "channel":
            for provider in providers:  # they claim their vouchers themselves
                await chain.faucet(provider.key.address, tglm=ZERO, eth_wei=GAS_WEI)
        _write_config(requestor, options, network, chain, bootstrap=[])
        await _start(stack, requestor, provider=False)
        bootstrap = list(requestor.facts["addresses"])
        async with trio.open_nursery() as nursery:
            for node in providers:
                _write_config(node, options, network, chain, bootstrap=bootstrap)
                nursery.start_soon(partial(_start, stack, node, provider=True))
        env = _environment(requestor, directory, options)
        net = LocalNet(directory, chain, requestor, providers, env, stack)
        _write_private(directory / "localnet.json", json.dumps(_description(net), indent=2))  # app-keys are in it
        await _check_runtimes(net)
        async with net.client() as client:
            await _wait_for_offers(client, options.providers, len(options.runtimes))
        try:
            yield net
        finally:  # all at once; the stack then waits for one after the other
            for node in nodes:
                if node.child is not None:
                    node.child.process.terminate()


def _names(providers: int) -> list[str]:
    return ["requestor", *(f"provider-{number}" for number in range(1, providers + 1))]


def _make_node(directory: Path, name: str) -> LocalNode:
    where = Locations.find(directory / name)
    where.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = NodeKey.generate()
    password = secrets.token_urlsafe(16)
    create_keystore(where.keystore, key, password, light=True)
    where.password.touch(mode=0o600)
    where.password.write_text(password)
    return LocalNode(name, key, where, secrets.token_hex(16))


def _write_config(
    node: LocalNode, options: LocalNetOptions, network: str, chain: LocalChain, *, bootstrap: Sequence[str]
) -> None:
    first = not bootstrap
    images = {name: _image(image) for name, image in options.images.items()}
    config: dict[str, Any] = {
        "version": 1,
        "net": {
            "network": network,
            "subnet": options.subnet,
            "listen": ["/ip4/127.0.0.1/tcp/0"],
            "bootstrap": list(bootstrap),
        },
        "rest": _rest(options) if first else {"listen": "127.0.0.1:0"},
        "payment": {
            "networks": [_network(options.network_name, chain)],
            "mode": options.payment_mode,
            "channels": {"deposit": CHANNEL_DEPOSIT, "claim_on_invoice": True},
            **options.payment,
        },
        "registry": {"aliases": {name: str(path) for name, path in images.items()}} if first else {},
        "provider": {
            "node_name": node.name,
            "runtimes": list(options.runtimes),
            # All providers share this machine: together they must not promise more than it has.
            "memory_gib": round(machine_memory_gib() * MEMORY_SHARE / (options.providers * ACTIVITIES), 3),
            "storage_gib": STORAGE_GIB,
            "max_activities": ACTIVITIES,
            "package_substitutes": {
                name.lower(): _sha3_224(path) for name, path in images.items() if _SHA3.fullmatch(name)
            },
            **options.provider,
        },
        "vm": {"capabilities": "usual"},  # the payloads are this user's own; real providers say so themselves
        "log": {"format": "json"},
    }
    _write_private(node.where.config, tomli_w.dumps(config))


def _network(name: str, chain: LocalChain) -> dict[str, Any]:
    """The local chain under whatever name; one that is built in must not lend it anything of the real network."""
    network = chain.network(name)
    contracts = {kind: getattr(network, kind) for kind in ("batch", "multi", "channels", "lock")}
    return {
        "name": name,
        "chain_id": network.chain_id,
        "token": network.token,
        "token_symbol": network.token_symbol,
        "symbol": "glm" if name in GLM_NETWORKS else "tglm",
        "rpc_urls": list(network.rpc_urls),
        "quorum": 1,
        "confirmations": 1,
        "finality": "depth",
        "max_head_age_s": 0.0,
        "poll_s": network.poll_s,
        "rebroadcast_s": network.rebroadcast_s,
        "bump_after_s": network.bump_after_s,
        "mint": network.mint,
        "mint_kind": network.mint_kind,
        "explorer": "",
        "cycle": {"interval_s": 0.0, "max_payees": 1, "max_total": "0", "fee_parts": 0, "min_payout": "0"},
        **{kind: address for kind, address in contracts.items() if address is not None},
    }


def _rest(options: LocalNetOptions) -> dict[str, Any]:
    """Of the requestor."""
    silence = {} if options.agent_silence_s is None else {"agent_silence_s": options.agent_silence_s}
    return {"listen": options.rest, "allowed_origins": [*options.origins], **silence}


def _image(reference: str) -> Path:
    """Of this user's image store, or a file. Raises NotFoundError."""
    return ImageStore(Locations.find().images).resolve(reference).absolute()


def _sha3_224(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha3_224").hexdigest()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)


async def _start(stack: AsyncExitStack, node: LocalNode, *, provider: bool) -> None:
    """Start the process; returns when it answers. Raises NetworkError with the end of its log."""
    node.where.running.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOLEMP2P_", "YAGNA_"))}
    env["GOLEMP2P_APPKEY"] = node.app_key
    if cache := os.environ.get("GOLEMP2P_CACHE_DIR"):
        env["GOLEMP2P_CACHE_DIR"] = cache
    command = [sys.executable, "-m", "golemp2p.cli.main", "run", "--data-dir", str(node.where.data)]
    if provider:
        command.append("--provider")
    node.log.touch(mode=0o600)
    node.log.chmod(0o600)
    node.child = await stack.enter_async_context(open_child(command, env=env, log=node.log))
    with trio.move_on_after(READY_TIMEOUT_S):
        while True:  # the file appears, whole, when the node is ready
            if node.child.ended():
                raise NetworkError(f"{node.name} ended: {node.child.last_words()[-1500:]}")
            try:
                node.facts = json.loads(node.where.running.read_text())
            except FileNotFoundError:
                await trio.sleep(CHECK_INTERVAL_S)
            else:
                _pin_ports(node)
                return
    raise DeadlineError(f"{node.name} was not ready within {READY_TIMEOUT_S:g} s: {node.child.last_words()[-1500:]}")


def _pin_ports(node: LocalNode) -> None:
    """The ports that the node found free become its settings: started again it is where the others know it."""
    config = tomllib.loads(node.where.config.read_text())
    config["net"]["listen"] = [address.partition("/p2p/")[0] for address in node.facts["addresses"]]
    config["rest"]["listen"] = node.rest_url.removeprefix("http://")
    node.where.config.write_text(tomli_w.dumps(config))


async def _check_runtimes(net: LocalNet) -> None:
    """Every provider can run what it is to offer. Raises UsageError with the reason why not."""

    async def check(provider: LocalNode) -> None:
        async with net.client(provider) as client:
            for known in await client.node.runtimes():
                tried = await client.node.runtime(known.id)
                if not tried.works:
                    raise UsageError(f"{provider.name} cannot run {tried.id}: {tried.reason}", hint=tried.hint)

    async with trio.open_nursery() as nursery:
        for provider in net.providers:
            nursery.start_soon(check, provider)


async def _wait_for_offers(client: NodeClient, providers: int, runtimes: int) -> None:
    seen: Counter[str] = Counter()
    with trio.move_on_after(OFFERS_TIMEOUT_S):
        while True:
            seen = Counter(offer.provider_id for offer in await client.node.offers(limit=1000))
            if sum(count >= runtimes for count in seen.values()) >= providers:
                return
            await trio.sleep(CHECK_INTERVAL_S)
    raise DeadlineError(f"only {len(seen)} of {providers} providers' offers became visible in {OFFERS_TIMEOUT_S:g} s")


def _environment(requestor: LocalNode, directory: Path, options: LocalNetOptions) -> dict[str, str]:
    """For agents of any kind: yagna's names, which yapapi and golem-js read."""
    ours = Path(sys.executable).parent
    return {
        "YAGNA_APPKEY": requestor.app_key,
        "YAGNA_API_URL": requestor.rest_url,
        "YAGNA_SUBNET": options.subnet,
        "YAGNA_PAYMENT_DRIVER": "erc20",
        "YAGNA_PAYMENT_NETWORK": options.network_name,
        "PAYMENT_NETWORK": options.network_name,
        "GOLEM_REGISTRY_URL": requestor.rest_url,
        "GOLEMP2P_DATA_DIR": str(requestor.where.data),
        "GOLEMP2P_LOCALNET": str(directory / "localnet.json"),
        # Ours first, but not our Python: the agent has an environment of its own.
        "PATH": os.pathsep.join([str(_commands(directory, ours)), os.environ.get("PATH", os.defpath), str(ours)]),
    }


def _commands(directory: Path, ours: Path) -> Path:
    """A directory with nothing but golemp2p's own commands."""
    folder = directory / "bin"
    folder.mkdir(exist_ok=True)
    for name in COMMANDS:
        link = folder / name
        link.unlink(missing_ok=True)
        if (ours / name).exists():
            link.symlink_to(ours / name)
    return folder


def _description(net: LocalNet) -> dict[str, Any]:
    def node(one: LocalNode) -> dict[str, Any]:
        return {
            "name": one.name,
            "app_key": one.app_key,
            "data_dir": str(one.where.data),
            "log": str(one.log),
            **one.facts,
        }

    return {
        "chain": {
            "kind": net.chain.kind,
            "rpc_url": net.chain.rpc_url,
            "chain_id": net.chain.chain_id,
            "token": net.chain.token_address,
            "batch": net.chain.batch,
            "channels": net.chain.channels,
            "multi": net.chain.multi,
            "lock": net.chain.lock,
        },
        "env": net.env,
        "requestor": node(net.requestor),
        "providers": [node(p) for p in net.providers],
    }
