"""`golemp2p run`: the node, with the provider agent beside it on demand."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from golemp2p.cli.common import AsJson, DataDir, echo, echo_json, facts, first_error, locations_of, run_async
from golemp2p.cli.init import PasswordFile, read_password
from golemp2p.cli.network import net_overrides, profile_of
from golemp2p.cli.serving import until_signal
from golemp2p.errors import PolicyError

if TYPE_CHECKING:
    import trio

    from golemp2p.config import Settings
    from golemp2p.identity import NodeKey
    from golemp2p.locations import Locations
    from golemp2p.provider import ProviderTerms

VOUCHER_PASSWORD_ENV: Final = "GOLEMP2P_VOUCHER_PASSWORD"  # noqa: S105 - a name; of the hot key, when another


def add_to(app: typer.Typer) -> None:
    @app.command(
        epilog="Example: golemp2p run --provider --runtime wasmtime,vm --listen /ip4/0.0.0.0/tcp/11155 --subnet public"
    )
    def run(
        data_dir: DataDir = None,
        password_file: PasswordFile = None,
        provider: Annotated[
            bool, typer.Option("--provider", help="Sell this machine: run the provider agent too.")
        ] = False,
        runtimes: Annotated[
            str | None, typer.Option("--runtime", help="What to sell, comma-separated (see golemp2p runtime list).")
        ] = None,
        listen: Annotated[
            list[str] | None, typer.Option("--listen", help="Multiaddr to listen on; repeatable.")
        ] = None,
        bootstrap: Annotated[
            list[str] | None, typer.Option("--bootstrap", help="Multiaddr of a node that is up; repeatable.")
        ] = None,
        network: Annotated[
            str | None,
            typer.Option("--network", help="Network: its name, one that was joined, or a profile's FILE.toml."),
        ] = None,
        subnet: Annotated[str | None, typer.Option("--subnet", help="Market subnet.")] = None,
        rest: Annotated[str | None, typer.Option("--rest", help="HOST:PORT of the REST API.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Run the node until Ctrl-C. Prints who it is and where it listens once it is ready."""
        import gc
        from concurrent.futures import ThreadPoolExecutor

        gc.disable()  # while modules are loaded: all that they make stays
        where = locations_of(data_dir)
        password = read_password(password_file, where)
        with ThreadPoolExecutor(1) as pool:
            # The key derivation takes half a second of one core, outside the GIL; the imports take one of the other.
            unlocking = pool.submit(_unlock, where, password)
            from golemp2p.config import load_settings

            profile = profile_of(where, network)
            flags = {"listen": listen, "bootstrap": bootstrap, "network": network, "subnet": subnet}
            overrides: dict[str, dict[str, Any]] = {
                "net": net_overrides(profile if network else None, flags),
                "rest": {"listen": rest} if rest else {},
                "provider": {"runtimes": [name.strip() for name in runtimes.split(",")]} if runtimes else {},
            }
            settings = load_settings(where.config, overrides, defaults=profile.settings() if profile else None)
            if provider and not settings.payment.networks:
                raise PolicyError(
                    "a provider without a payment network could never be paid",
                    hint="golemp2p payment init --network NAME writes one into the settings",
                )
            import golemp2p.net.libp2p.host
            import golemp2p.node  # noqa: F401 - only to have it loaded

            key = unlocking.result()
            voucher_key = _voucher_key(settings.payment.voucher_keystore, password)
        gc.freeze()
        gc.enable()
        raise typer.Exit(run_async(lambda: _serve(settings, where, key, voucher_key, provider, as_json=as_json)))


def _unlock(where: Locations, password: str) -> NodeKey:
    from golemp2p.identity import unlock_keystore

    return unlock_keystore(where.keystore, password)


def _voucher_key(keystore: str, password: str) -> NodeKey | None:
    """The hot key of setting payment.voucher_keystore, if there is one; its password may be another."""
    if not keystore:
        return None
    from golemp2p.identity import unlock_keystore

    return unlock_keystore(Path(keystore).expanduser(), os.environ.get(VOUCHER_PASSWORD_ENV, password))


async def _serve(
    settings: Settings, where: Locations, key: NodeKey, voucher_key: NodeKey | None, provider: bool, *, as_json: bool
) -> int:
    """The exit code: 0 after SIGTERM, INTERRUPTED after Ctrl-C."""
    from golemp2p import log
    from golemp2p.node import facts_of, open_node

    log.configure(settings.log.level, settings.log.format)

    async def serve(nursery: trio.Nursery, stop: trio.Event) -> None:
        async with open_node(settings, where, key, voucher_key=voucher_key) as node:
            _announce(facts_of(node), as_json=as_json)
            if provider:
                nursery.start_soon(_provide, node)
            await stop.wait()

    return await until_signal(serve)


async def _provide(node: Any) -> None:
    """The provider agent speaks REST like any other agent, over an in-process transport."""
    import httpx

    from golemp2p.client import connect
    from golemp2p.provider import run_provider

    transport = httpx.ASGITransport(app=node.app)

    async def once() -> None:
        async with connect(node.rest_url, node.app_key, transport=transport) as client:
            await run_provider(client, terms_of(node.settings), subnet=node.settings.net.subnet)

    await keep_running(once)


async def keep_running(agent: Callable[[], Awaitable[None]]) -> None:
    """Run ``agent`` again whenever an exception ends it: the node must not die of its agent.

    The waits double; after AGENT_STEADY_S of good work they begin anew.
    """
    import structlog
    import trio
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

    from golemp2p import limits

    log = structlog.get_logger("golemp2p.provider")
    failures = 0  # since the agent went well for a while

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.error(
            "provider_agent_failed",
            error=str(first_error(error)) if error else "",
            again_in_s=state.upcoming_sleep,
            exc_info=error,
        )

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Exception),
        wait=lambda _: float(min(limits.AGENT_RETRY_S * 2 ** (failures - 1), limits.AGENT_RETRY_MAX_S)),
        before_sleep=tell,
        sleep=trio.sleep,
    )

    async def watched() -> None:
        nonlocal failures
        began_s = trio.current_time()
        try:
            await agent()
        except Exception:  # broad: whatever it was, the wait before the next start depends on how long it went well
            steady = trio.current_time() - began_s > limits.AGENT_STEADY_S
            failures = 1 if steady else min(failures + 1, 30)
            raise

    await retrying(watched)


def terms_of(settings: Settings) -> ProviderTerms:
    """The provider section as the agent takes it."""
    from golemp2p.provider import ProviderTerms

    others = {"runtimes", "http_transfers", "package_substitutes", "outbound"}
    outbound = tuple(settings.provider.outbound.whitelist)
    return ProviderTerms(**settings.provider.model_dump(exclude=others), outbound=outbound)


def _announce(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_json(found)
        return
    facts(
        [
            ("peer id", found["peer_id"]),
            ("address", found["address"]),
            *(("listening", address) for address in found["addresses"]),
            ("rest", found["rest_url"]),
            ("network", f"{found['network']} / {found['subnet']}"),
        ]
    )
    echo("ready")
