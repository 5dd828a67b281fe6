"""`golemp2p localnet`: a whole network on this machine, for one command or until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from golemp2p.cli.common import ExitCode, echo, echo_json, run_async, say
from golemp2p.errors import UsageError

if TYPE_CHECKING:
    from golemp2p.localnet import LocalNet, LocalNetOptions

COMMAND_STOP_S: Final = 5.0
COMMAND_POLL_S: Final = 0.02
ORPHAN_ROUNDS: Final = 100


def add_to(app: typer.Typer) -> None:
    @app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": False},
        epilog="Example: golemp2p localnet --providers 2 -- golemp2p offers",
    )
    def localnet(
        context: typer.Context,
        providers: Annotated[int, typer.Option("--providers", min=1, max=50, help="Number of provider nodes.")] = 2,
        runtime: Annotated[
            str, typer.Option("--runtime", help="Runtimes of the providers, comma-separated.")
        ] = "wasmtime",
        chain: Annotated[
            str | None, typer.Option("--chain", help="anvil or embedded; default: anvil if it can be had.")
        ] = None,
        payment_network: Annotated[
            str,
            typer.Option(
                "--payment-network",
                help="What clients call the local chain's payment network: for programs that ask for one by name.",
            ),
        ] = "local",
        payment_mode: Annotated[
            str,
            typer.Option("--payment-mode", help="How the requestor pays: batch, or channel (vouchers)."),
        ] = "batch",
        subnet: Annotated[
            str, typer.Option("--subnet", help="Subnet of all the nodes, for programs that look into one by name.")
        ] = "public",
        rest: Annotated[
            str, typer.Option("--rest", help="Where the requestor's REST API listens; port 0 is a free one.")
        ] = "127.0.0.1:0",
        app_key: Annotated[
            str | None,
            typer.Option("--app-key", help="The agents' key, for programs with one built in; default: a fresh one."),
        ] = None,
        origin: Annotated[
            list[str] | None,
            typer.Option("--allow-origin", help="Web pages that may call the requestor's node; * is any. Repeatable."),
        ] = None,
        image: Annotated[
            list[str] | None,
            typer.Option(
                "--image",
                help="NAME=IMAGE: what programs get that ask the node's image registry for NAME, a tag or a hash. "
                "Repeatable.",
            ),
        ] = None,
        directory: Annotated[
            Path | None, typer.Option("--dir", help="Keep the network's files here (default: a temporary directory).")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Without COMMAND: print the settings as JSON.")] = False,
    ) -> None:
        """Start a local chain, a requestor and providers; run COMMAND on it (after --) and pass its exit code on.

        COMMAND finds the network by YAGNA_APPKEY, YAGNA_API_URL and so on. Without COMMAND: print the settings and
        stay up until Ctrl-C. Nothing is left behind either way.
        """
        if chain not in (None, "anvil", "embedded"):
            raise UsageError(f"--chain is {chain!r}", hint="anvil or embedded")
        if payment_mode not in ("batch", "channel"):
            raise UsageError(f"--payment-mode is {payment_mode!r}", hint="batch or channel")
        if context.args:
            _program(context.args[0])  # before a network is started for it
        from golemp2p.localnet import LocalNetOptions

        options = LocalNetOptions(
            providers=providers,
            runtimes=tuple(name.strip() for name in runtime.split(",") if name.strip()),
            chain=chain,  # type: ignore[arg-type] # checked above
            network_name=payment_network,
            payment_mode=payment_mode,  # type: ignore[arg-type] # checked above
            subnet=subnet,
            rest=rest,
            app_key=app_key,
            origins=tuple(origin or ()),
            images=dict(_alias(text) for text in image or ()),
            directory=directory,
        )
        code = run_async(lambda: _run(options, context.args, as_json=as_json))
        raise typer.Exit(code)


def _alias(text: str) -> tuple[str, str]:
    name, sign, image = text.partition("=")
    if not (name and sign and image):
        raise UsageError(f"--image {text!r} is not NAME=IMAGE", hint="--image golem/alpine:latest=alpine.gvmi")
    return name, image


async def _run(options: LocalNetOptions, command: list[str], *, as_json: bool) -> int:
    """The command's exit code; INTERRUPTED after Ctrl-C or SIGTERM. The network is gone on return."""
    import trio

    from golemp2p import log
    from golemp2p.localnet import open_localnet

    log.configure("warning")
    code = int(ExitCode.INTERRUPTED)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            say(f"starting a local network: {options.providers} providers, runtime {', '.join(options.runtimes)}")
            async with open_localnet(options) as net:
                say(f"network is up ({net.chain.kind} chain, {net.directory})")
                if command:
                    code = await _run_command(command, net)
                else:
                    _print_settings(net, as_json=as_json)
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    return code


def _print_settings(net: LocalNet, *, as_json: bool) -> None:
    if as_json:
        echo_json(net.env)
    else:
        for name, value in net.env.items():
            echo(f"export {name}={value}")
        say("press Ctrl-C to stop")


async def _run_command(command: list[str], net: LocalNet) -> int:
    """Our terminal is the command's; when we are cancelled it gets SIGTERM, then SIGKILL. Nothing of it is left."""
    import subprocess

    import trio

    from golemp2p.localchain.child import launcher

    _adopt_orphans()
    ours = _children()
    # In our process group: Ctrl-C reaches it directly, as in a shell. From our own thread: see localchain/child.py.
    process = subprocess.Popen(  # noqa: ASYNC220
        launcher([_program(command[0]), *command[1:]]), env={**os.environ, **net.env}
    )
    try:
        while process.poll() is None:  # noqa: ASYNC110 - a process gives no event
            await trio.sleep(COMMAND_POLL_S)
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(COMMAND_STOP_S):
                    while process.poll() is None:  # noqa: ASYNC110
                        await trio.sleep(COMMAND_POLL_S)
                process.kill()
            process.wait()
            _end_children_but(ours)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _program(name: str) -> str:
    """Its absolute path, by the PATH that the command will have. Raises UsageError."""
    import shutil

    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=path)
    if found is None:
        raise UsageError(f"cannot run {name}: there is no such program, or it is not executable")
    return str(Path(found).absolute())


def _adopt_orphans() -> None:
    """What the command leaves behind becomes our child (Linux), so that we can end it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _end_children_but(kept: set[int]) -> None:
    for _ in range(ORPHAN_ROUNDS):  # the children of one that is gone become ours
        orphans = _children() - kept
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if not orphans:
            return


def _children() -> set[int]:
    try:
        return {
            int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
        }
    except OSError:  # another system, or a kernel without the list
        return set()
