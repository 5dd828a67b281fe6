"""`golemp2p job`: run a program at a provider, as if it ran here."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from golemp2p.cli.common import (
    ApiUrl,
    AppKeyOption,
    AsJson,
    DataDir,
    ExitCode,
    echo_json,
    find_node,
    printable,
    run_async,
    say,
)
from golemp2p.errors import GolemError, NotFoundError, UsageError

if TYPE_CHECKING:
    from golemp2p.sdk import CommandOutput, Golem, Payload, Results, Script, Task, TaskResult, WorkContext

app = typer.Typer(help="Run programs at providers.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run programs at providers."""


@dataclass(frozen=True)
class Input:
    """A local file or directory and where it goes in the guest."""

    local: Path
    guest: str


@dataclass(frozen=True)
class Output:
    """What comes back from the guest: a file, or a directory with all that is in it."""

    guest: str
    local: Path
    is_directory: bool = False


@dataclass
class Order:
    """What the command line asks for, and what came of it."""

    argv: list[str]
    program: Path | None = None
    image: str | None = None
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    max_price: str = "1"
    timeout_s: float = 600.0
    wait_s: float = 10.0
    min_memory_gib: float = 0.0
    memory_gib: float | None = None
    cpus: float | None = None
    storage_gib: float | None = None
    isolation: str | None = None
    backend: str | None = None
    deterministic: bool = False
    receipt: Path | None = None
    live: bool = True
    interrupted: bool = False
    missing: list[str] = field(default_factory=list)


@app.command(
    context_settings={"allow_extra_args": True},
    epilog="Examples: golemp2p job run resvg.wasm --input logo.svg --fetch logo.png -- logo.svg logo.png    "
    "golemp2p job run --image busybox.tar --output results/:out -- sh -c 'mkdir results; date > results/now'",
)
def run(
    context: typer.Context,
    program: Annotated[
        str | None, typer.Argument(metavar="[PROGRAM.wasm]", help="A WASI program; none with --image.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="A container or VM image: name, hash, file (OCI or docker archive, .gvmi), link."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="LOCAL[:GUEST], a file or directory; default GUEST: its name (repeatable)."),
    ] = None,
    fetch: Annotated[
        list[str] | None, typer.Option("--fetch", "-f", help="A file of /golem/work to bring back (repeatable).")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", help="GUEST:LOCAL to bring back (GUEST/ is a directory); or a DIR for --fetch."),
    ] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of the program (repeatable); also all after --.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE for it (repeatable).")] = None,
    max_price: Annotated[str, typer.Option("--max-price", help="The most the job may cost, in GLM.")] = "1",
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for the whole job.")] = 600.0,
    wait_s: Annotated[float, typer.Option("--wait", min=0.1, help="Seconds to wait for a matching offer.")] = 10.0,
    min_memory_gib: Annotated[float, typer.Option("--min-memory", min=0, help="GiB that the provider must have.")] = 0,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", help="What it needs and may use at most: 512m, 2g.")
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0.01, help="Cores it needs and may use at most.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Disk it needs and may use at most: 500m, 10g.")
    ] = None,
    isolation: Annotated[
        str | None, typer.Option("--isolation", help="What the provider must offer: container, gvisor, microvm.")
    ] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="Of an image: docker or qemu.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="A WASM result that others can repeat, with a signed receipt.")
    ] = False,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="Where to write the receipt (see golemp2p verify).")
    ] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Run a WASM program or a container image at a provider; its output and exit code are this command's.

    Files given by --input are in the working directory (/golem/work). After the command, what --fetch and --output name
    comes back. --json prints one object with everything at the end, instead of live output. Exit codes of our own:
    5 the price is too low, 6 no provider matches, 124 timeout, 130 interrupted; 134 is a trap of a WASM program, 137
    out of memory or killed.
    """
    argv = [*(arg or []), *context.args]
    if image is not None and program is not None:
        argv.insert(0, program)
    if image is None and program is None:
        raise UsageError("nothing to run", hint="name a PROGRAM.wasm, or give --image IMAGE -- COMMAND")
    places = [text for text in output or [] if ":" not in text]
    if len(places) > 1:
        raise UsageError("--output names two directories", hint="one is for --fetch, the others are GUEST:LOCAL")
    order = Order(
        argv=argv,
        program=None if image is not None or program is None else Path(program),
        image=image,
        inputs=[parse_input(text) for text in inputs or []],
        outputs=parse_outputs(fetch or [], Path(places[0] if places else "."), output or []),
        env=_pairs(env or []),
        max_price=max_price,
        timeout_s=timeout_s,
        wait_s=wait_s,
        min_memory_gib=min_memory_gib,
        memory_gib=None if memory is None else parse_size_gib(memory, "--memory"),
        cpus=cpus,
        storage_gib=None if storage is None else parse_size_gib(storage, "--storage"),
        isolation=_one_of(isolation, "--isolation", ("container", "gvisor", "microvm")),
        backend=_one_of(backend, "--backend", ("docker", "qemu")),
        deterministic=deterministic or receipt is not None,
        receipt=receipt,
        live=not as_json,
    )
    check(order)
    url, key = find_node(data_dir, api_url, app_key)
    try:
        raise typer.Exit(run_async(lambda: _run(order, url, key)))
    except GolemError as error:
        raise _in_flags(error) from None


def parse_input(text: str) -> Input:
    """``LOCAL[:GUEST]``; a local name with a colon in it is taken whole when it exists."""
    if Path(text).exists() or ":" not in text:
        return Input(Path(text), Path(text).name)
    local, _, guest = text.rpartition(":")
    if not local or not guest:
        raise UsageError(f"--input {text!r} is not LOCAL or LOCAL:GUEST")
    return Input(Path(local), f"{guest}{Path(local).name}" if guest.endswith("/") else guest)


def parse_outputs(fetch: list[str], directory: Path, outputs: list[str]) -> list[Output]:
    found = []
    for name in fetch:
        if name.startswith("/") or ".." in Path(name).parts:
            raise UsageError(f"--fetch {name!r}", hint="name a file below /golem/work, without ..")
        found.append(Output(name, directory / name))
    for text in outputs:
        guest, colon, local = text.partition(":")
        if not colon:
            continue
        if not guest or not local or ".." in Path(guest).parts:
            raise UsageError(f"--output {text!r} is not GUEST:LOCAL", hint="a GUEST that ends in / is a directory")
        found.append(Output(guest.rstrip("/") or "/", Path(local), guest.endswith("/")))
    return found


_UNITS = {"": 1 / 2**30, "b": 1 / 2**30, "k": 1 / 2**20, "m": 1 / 2**10, "g": 1.0, "t": 1024.0}


def parse_size_gib(text: str, flag: str) -> float:
    """``512m``, ``2g``, ``1.5GiB``, or bytes, in GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{flag} {text!r} is no size", hint="for example 512m or 2g")
    size_gib = float(match[1]) * _UNITS[match[2]]
    if size_gib < 1 / 1024:
        raise UsageError(f"{flag} {text!r} is less than 1 MiB: nothing runs in that", hint="for example 512m or 2g")
    return size_gib


def _one_of(text: str | None, flag: str, known: tuple[str, ...]) -> str | None:
    if text is not None and text not in known:
        raise UsageError(f"{flag} {text!r} is not known", hint=f"one of {', '.join(known)}")
    return text


def _pairs(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise UsageError(f"--env {text!r} is not NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def check(order: Order) -> None:
    """Everything that can be known to be wrong before anything is paid for."""
    if order.program is not None and not order.program.is_file():
        raise NotFoundError(f"there is no file {order.program}")
    for given in order.inputs:
        if not given.local.exists():
            raise NotFoundError(f"there is no file {given.local}")
    guests = [given.guest for given in order.inputs]
    if climbing := [name for name in guests if ".." in Path(name).parts]:
        raise UsageError(f"--input goes to {climbing[0]!r}", hint="name a GUEST without ..")
    if twice := sorted({name for name in guests if guests.count(name) > 1}):
        raise UsageError(f"two inputs have the same name: {', '.join(twice)}")
    if order.image is None and (order.isolation or order.backend):
        raise UsageError("--isolation and --backend are for --image")
    if order.image is None and order.cpus is not None:
        raise UsageError("--cpus is for --image", hint="a WASM program runs on one core")
    if order.image is not None and order.deterministic:
        raise UsageError("--deterministic is for WASM programs", hint="a container's results are not repeatable")
    if order.receipt is not None and not os.access(order.receipt.parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write the receipt into {order.receipt.parent}", hint="choose another --receipt FILE")
    if order.receipt is not None and order.receipt.is_dir():
        raise UsageError(f"{order.receipt} is a directory, the receipt would be a file there")
    _prepare_outputs(order)


def _prepare_outputs(order: Order) -> None:
    """The directories for the results. Raises UsageError."""
    for target in order.outputs:
        parent = target.local.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"cannot make the directory {parent}: {exc.strerror}", hint="--output") from exc
        if target.is_directory and target.local.exists():
            raise UsageError(f"{target.local} is there already", hint="--output GUEST/:LOCAL makes a new directory")
        if target.local.is_dir():
            raise UsageError(f"{target.local} is a directory, a file would be written there")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write into {parent}", hint="choose another place with --output")


# The SDK's hints name its own parameters.
_FLAGS = {"offers_timeout_s": "--wait", "task_timeout_s": "--timeout", "timeout_s": "--timeout"}


def _in_flags(error: GolemError) -> GolemError:
    error.hint = re.sub(r"\b(offers_timeout_s|task_timeout_s|timeout_s)\b", lambda m: _FLAGS[m[0]], error.hint)
    return error


async def _run(order: Order, url: str, key: str) -> int:
    """The exit code. SIGINT and SIGTERM end the job in order: activity, agreement, bill."""
    import signal

    import trio

    from golemp2p.sdk import Golem

    golem = Golem(budget=order.max_price, api_url=url, app_key=key, name="golemp2p job run")
    result: TaskResult[None, CommandOutput] | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, _Progress() as progress:
        scope = trio.CancelScope()

        async def interrupt() -> None:
            async for _ in signals:
                order.interrupted = True
                progress.say("stopping")
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            try:
                with scope:
                    result = await _execute(order, golem, progress)
            finally:
                progress.stop()
                _say_cost(golem)
                nursery.cancel_scope.cancel()
    if order.interrupted or result is None:
        say("interrupted")
        return ExitCode.INTERRUPTED
    if result.error is not None:
        raise result.error
    return _conclude(order, golem, result.value)


async def _execute(order: Order, golem: Golem, progress: _Progress) -> TaskResult[None, CommandOutput]:
    logging.getLogger("golemp2p.sdk").setLevel(logging.ERROR)  # what it would warn of, we say in our own words
    payload, argv = await _payload(order)
    progress.say("looking for a provider")
    async with golem:
        results: Results[None, CommandOutput] = golem.execute_tasks(
            lambda context, tasks: _work(order, argv, progress, context, tasks),
            [None],
            payload=payload,
            max_workers=1,
            max_attempts=1,
            timeout_s=order.timeout_s,
            task_timeout_s=order.timeout_s,
            offers_timeout_s=order.wait_s,
            on_waiting=lambda why: say(f"golemp2p: still waiting: {why}"),
        )
        result = await anext(results)
        progress.say("waiting for the bill")
        await golem.finish()
        return result


async def _payload(order: Order) -> tuple[Payload, list[str]]:
    """The payload and the command line to run in it."""
    from golemp2p.sdk import vm, wasm

    if order.program is not None:
        payload = await wasm(
            order.program,
            min_memory_gib=order.min_memory_gib,
            memory_gib=order.memory_gib,
            storage_gib=order.storage_gib,
            deterministic=order.deterministic,
            env=order.env,
        )
        return payload, [order.program.name, *order.argv]
    source, argv = await _image(order.image or "", order.argv)
    payload = await vm(
        source,
        min_memory_gib=order.min_memory_gib,
        memory_gib=order.memory_gib,
        cpus=order.cpus,
        storage_gib=order.storage_gib,
        isolation=order.isolation,  # type: ignore[arg-type] # checked with the flags
        backend=order.backend,  # type: ignore[arg-type] # checked with the flags
        env=order.env,
    )
    return payload, argv


async def _image(reference: str, argv: list[str]) -> tuple[str | Path, list[str]]:
    """Where the image is, and its entry point with ``argv``, or with its own command when there is none."""
    import trio

    from golemp2p.images import inspect_image
    from golemp2p.images.store import ImageStore
    from golemp2p.locations import Locations

    if reference.startswith(("hash:", "docker://")):
        if not argv:
            raise UsageError("no command to run", hint="give one after --: the image's own is not known here")
        return reference, argv
    path = await trio.to_thread.run_sync(lambda: ImageStore(Locations.find().images).resolve(reference))
    config = (await trio.to_thread.run_sync(inspect_image, path)).config
    command = [*config.entrypoint, *(argv or config.cmd)]
    if not command:
        raise UsageError(f"image {reference} names no command", hint="give one after --")
    return path, command


async def _work(
    order: Order,
    argv: list[str],
    progress: _Progress,
    context: WorkContext,
    tasks: AsyncIterator[Task[None, CommandOutput]],
) -> AsyncIterator[Script]:
    from golemp2p.sdk import CommandFailedError

    async def show(stream: str, data: bytes) -> None:
        progress.stop()
        await _write(sys.stdout if stream == "stdout" else sys.stderr, data)

    async for task in tasks:
        progress.say(f"running at {context.provider_name}")
        script = context.new_script()
        for given in order.inputs:
            upload = script.upload_directory if given.local.is_dir() else script.upload_file
            upload(given.local, given.guest)
        done = script.run(argv[0], *argv[1:], check=False, on_output=show if order.live else None)
        yield script
        for wanted in order.outputs:
            script = context.new_script()
            download = script.download_directory if wanted.is_directory else script.download_file
            download(wanted.guest, wanted.local)
            try:
                yield script
            except CommandFailedError as exc:  # not there, or no file
                order.missing.append(wanted.guest)
                say(f"golemp2p: {exc.message}")
            except UsageError as exc:  # it came, but cannot be kept here; the other results can
                order.missing.append(wanted.guest)
                say(f"golemp2p: {wanted.guest} is not kept: {exc.message}")
        task.accept(await done)


async def _write(stream: TextIO, data: bytes) -> None:
    """In a thread: while nobody reads our output, Ctrl-C and the timeout must still be heard.

    Ends the command when nobody will ever read it (``job run … | head``), as SIGPIPE ends other programs.
    """
    import trio

    left = memoryview(data)
    while left:
        try:
            written = await trio.to_thread.run_sync(os.write, stream.fileno(), left, abandon_on_cancel=True)
        except BrokenPipeError:
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except OSError as exc:
            raise UsageError(f"cannot write the output: {exc.strerror}") from exc
        left = left[written:]


def _say_cost(golem: Golem) -> None:
    if rows := golem.report():
        last = rows[-1]
        say(f"cost: {golem.cost:f} GLM, provider {last.provider_name}, agreement {last.agreement_id}")


def _conclude(order: Order, golem: Golem, output: CommandOutput) -> int:
    if output.message:
        say(f"golemp2p: {output.message}")
    code = output.exit_code or (ExitCode.FAILED if order.missing else ExitCode.OK)
    if order.receipt is not None:
        _save_receipt(order.receipt, output)
    if not order.live:
        last = golem.report()[-1]
        found: dict[str, Any] = {
            "exit_code": output.exit_code,
            "stdout": output.stdout,
            "stderr": output.stderr,
            "message": output.message,
            "files": [str(wanted.local) for wanted in order.outputs if wanted.guest not in order.missing],
            "cost": f"{golem.cost:f}",
            "provider": last.provider_name,
            "provider_id": last.provider_id,
            "seconds": last.seconds,
            "agreement_id": last.agreement_id,
            "invoice_id": last.invoice_id,
        }
        echo_json(found)
    return code


def _save_receipt(path: Path, output: CommandOutput) -> None:
    if output.receipt is None:
        say("golemp2p: the provider sent no receipt")
        return
    path.write_text(json.dumps(dict(output.receipt), indent=2) + "\n")
    say(f"receipt: {path} (check it with: golemp2p verify {path})")


class _Progress:
    """One line on stderr with the time, only on a terminal, and only until the program says something."""

    def __init__(self) -> None:
        self._shown: Any = None
        self._task: Any = None
        self._over = not sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, text: str) -> None:
        if self._over:
            return
        text = printable(text)
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._shown = Progress(
                TextColumn("{task.description}", markup=False),  # others' messages may hold a "["
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._shown.start()
            self._task = self._shown.add_task(text, total=None)
        self._shown.update(self._task, description=text)

    def stop(self) -> None:
        self._over = True
        if self._shown is not None:
            self._shown.stop()
            self._shown = None
