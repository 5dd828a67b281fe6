"""`golemp2p job`: run a program at a provider, as if it ran here."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, ExitCode, echo_json, find_node, run_async, say
from golemp2p.errors import GolemError, NotFoundError, UsageError

if TYPE_CHECKING:
    from golemp2p.sdk import CommandOutput, Golem, Results, Script, Task, TaskResult, WorkContext

app = typer.Typer(help="Run programs at providers.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run programs at providers."""


@dataclass
class _Order:
    """What the command line asks for, and what came of it."""

    program: Path
    argv: list[str]
    inputs: list[Path]
    fetch: list[str]
    output: Path
    env: dict[str, str]
    max_price: str
    timeout_s: float
    wait_s: float
    min_memory_gib: float
    live: bool
    interrupted: bool = False
    missing: list[str] = field(default_factory=list)


@app.command(
    context_settings={"allow_extra_args": True},
    epilog="Example: golemp2p job run resvg.wasm --input logo.svg --fetch logo.png -- logo.svg logo.png",
)
def run(
    context: typer.Context,
    program: Annotated[Path, typer.Argument(metavar="PROGRAM.wasm", help="A WASI preview 1 program.")],
    inputs: Annotated[
        list[Path] | None, typer.Option("--input", "-i", help="A file for /golem/work, by its own name (repeatable).")
    ] = None,
    fetch: Annotated[
        list[str] | None, typer.Option("--fetch", "-f", help="A file of /golem/work to bring back (repeatable).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory for fetched files.")] = Path(),
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="An argument of the program (repeatable); also all after --.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for the program (repeatable).")] = None,
    max_price: Annotated[str, typer.Option("--max-price", help="The most the job may cost, in GLM.")] = "1",
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for the whole job.")] = 600.0,
    wait_s: Annotated[float, typer.Option("--wait", min=0.1, help="Seconds to wait for a matching offer.")] = 10.0,
    min_memory_gib: Annotated[float, typer.Option("--min-memory", min=0, help="GiB that the provider must have.")] = 0,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Run PROGRAM.wasm at a provider; its output and exit code are this command's.

    Files given by --input are in the program's working directory, files named by --fetch come back into --output.
    --json prints one object with everything at the end, instead of live output. Exit codes of our own: 5 the price is
    too low, 6 no provider matches, 124 timeout, 130 interrupted; 134 is a trap of the program, 137 out of memory.
    """
    order = _Order(
        program=program,
        argv=[*(arg or []), *context.args],
        inputs=inputs or [],
        fetch=fetch or [],
        output=output,
        env=_pairs(env or []),
        max_price=max_price,
        timeout_s=timeout_s,
        wait_s=wait_s,
        min_memory_gib=min_memory_gib,
        live=not as_json,
    )
    _check(order)
    url, key = find_node(data_dir, api_url, app_key)
    try:
        raise typer.Exit(run_async(lambda: _run(order, url, key)))
    except GolemError as error:
        raise _in_flags(error) from None


def _pairs(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text or text.startswith("="):
            raise UsageError(f"--env {text!r} is not NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _check(order: _Order) -> None:
    for path in (order.program, *order.inputs):
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}")
    names = [path.name for path in order.inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two inputs have the same name: {', '.join(twice)}")
    for name in order.fetch:
        if name.startswith("/") or ".." in Path(name).parts:
            raise UsageError(f"--fetch {name!r}", hint="name a file below /golem/work, without ..")
    _prepare_output(order)


def _prepare_output(order: _Order) -> None:
    """The directories for the results, made before anything is paid for. Raises UsageError."""
    for target in (order.output / name for name in order.fetch):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"cannot make the directory {target.parent}: {exc.strerror}", hint="--output") from exc
        if target.is_dir():
            raise UsageError(f"{target} is a directory, --fetch would write a file there")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write into {target.parent}", hint="choose another directory with --output")


# The SDK's hints name its own parameters.
_FLAGS = {"offers_timeout_s": "--wait", "task_timeout_s": "--timeout", "timeout_s": "--timeout"}


def _in_flags(error: GolemError) -> GolemError:
    error.hint = re.sub(r"\b(offers_timeout_s|task_timeout_s|timeout_s)\b", lambda m: _FLAGS[m[0]], error.hint)
    return error


async def _run(order: _Order, url: str, key: str) -> int:
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


async def _execute(order: _Order, golem: Golem, progress: _Progress) -> TaskResult[None, CommandOutput]:
    from golemp2p.sdk import wasm

    payload = await wasm(order.program, min_memory_gib=order.min_memory_gib, env=order.env)
    progress.say("looking for a provider")
    async with golem:
        results: Results[None, CommandOutput] = golem.execute_tasks(
            lambda context, tasks: _work(order, progress, context, tasks),
            [None],
            payload=payload,
            max_workers=1,
            max_attempts=1,
            timeout_s=order.timeout_s,
            task_timeout_s=order.timeout_s,
            offers_timeout_s=order.wait_s,
        )
        result = await anext(results)
        progress.say("waiting for the bill")
        await golem.finish()
        return result


async def _work(
    order: _Order, progress: _Progress, context: WorkContext, tasks: AsyncIterator[Task[None, CommandOutput]]
) -> AsyncIterator[Script]:
    from golemp2p.sdk import CommandFailedError

    def show(stream: str, data: bytes) -> None:
        progress.stop()
        pipe = sys.stdout if stream == "stdout" else sys.stderr
        pipe.buffer.write(data)
        pipe.flush()

    async for task in tasks:
        progress.say(f"running at {context.provider_name}")
        script = context.new_script()
        for path in order.inputs:
            script.upload_file(path, path.name)
        done = script.run(
            order.program.name, *order.argv, check=False, binary=True, on_output=show if order.live else None
        )
        yield script
        for name in order.fetch:
            script = context.new_script()
            script.download_file(name, order.output / name)
            try:
                yield script
            except CommandFailedError as exc:
                order.missing.append(name)
                say(f"golemp2p: {exc.message}")
        task.accept(await done)


def _say_cost(golem: Golem) -> None:
    if rows := golem.report():
        last = rows[-1]
        say(f"cost: {golem.cost:f} GLM, provider {last.provider_name}, agreement {last.agreement_id}")


def _conclude(order: _Order, golem: Golem, output: CommandOutput) -> int:
    if output.message:
        say(f"golemp2p: {output.message}")
    code = output.exit_code or (ExitCode.FAILED if order.missing else ExitCode.OK)
    if not order.live:
        last = golem.report()[-1]
        found: dict[str, Any] = {
            "exit_code": output.exit_code,
            "stdout": output.stdout,
            "stderr": output.stderr,
            "message": output.message,
            "files": [str(order.output / name) for name in order.fetch if name not in order.missing],
            "cost": f"{golem.cost:f}",
            "provider": last.provider_name,
            "provider_id": last.provider_id,
            "seconds": last.seconds,
            "agreement_id": last.agreement_id,
            "invoice_id": last.invoice_id,
        }
        echo_json(found)
    return code


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
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._shown = Progress(
                TextColumn("{task.description}"),
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
