"""What the commands share: exit codes, output, errors, finding the node."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from unicodedata import category

import typer

from golemp2p import errors

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.locations import Locations

T = TypeVar("T")
_COMMANDS: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")  # of Unicode: controls, invisible marks, halves of characters


class ExitCode(IntEnum):
    """Documented in README. `job run` and `localnet` pass the exit code of what they ran."""

    OK = 0
    FAILED = 1  # the operation was tried and failed
    USAGE = 2  # wrong arguments, settings or input
    NOT_FOUND = 3  # an id or file that does not exist
    UNREACHABLE = 4  # no node, peer or chain answers
    REFUSED = 5  # policy: budget, limits, permissions
    NO_OFFERS = 6  # no provider matches the demand
    TIMEOUT = 124
    INTERRUPTED = 130
    BROKEN_PIPE = 141  # nobody reads the output of `job run` any more


def exit_code_of(error: errors.GolemError) -> ExitCode:
    kinds: tuple[tuple[type[errors.GolemError], ExitCode], ...] = (
        (errors.NotFoundError, ExitCode.NOT_FOUND),
        (errors.UsageError, ExitCode.USAGE),
        (errors.DeadlineError, ExitCode.TIMEOUT),
        (errors.NetworkError, ExitCode.UNREACHABLE),
        (errors.PolicyError, ExitCode.REFUSED),
    )
    if error.code == "no_offers":
        return ExitCode.NO_OFFERS
    return next((code for kind, code in kinds if isinstance(error, kind)), ExitCode.FAILED)


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="GOLEMP2P_DATA_DIR", help="The node's data directory.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
ApiUrl = Annotated[
    str | None, typer.Option("--api-url", envvar=["GOLEMP2P_API_URL", "YAGNA_API_URL"], help="REST URL of the node.")
]
AppKeyOption = Annotated[
    str | None, typer.Option("--app-key", envvar=["GOLEMP2P_APPKEY", "YAGNA_APPKEY"], help="App-key of the node.")
]


def locations_of(data_dir: Path | None) -> Locations:
    from golemp2p.locations import Locations

    return Locations.find(data_dir)


def printable(text: str) -> str:
    """``text`` as a terminal may have it: others' names and messages must not move its cursor, set its title, or turn
    the direction of what follows."""
    return "".join(c if c in "\n\t" or category(c) not in _COMMANDS else ascii(c)[1:-1] for c in text)


def echo(text: str = "") -> None:
    """Data: stdout."""
    print(printable(text) if sys.stdout.isatty() else text, flush=True)


def say(text: str) -> None:
    """Everything else: stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def echo_json(value: Any) -> None:
    echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """A table on stdout; wide enough for ids when the output is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As Text: rich takes a "[" in a mere string for markup, and fails on a name like "[/x]".
    drawn = Table(title=None if title is None else Text(printable(title)), title_justify="left")
    for column in columns:
        drawn.add_column(column, overflow="fold")  # half a hash is of no use
    for row in rows:
        drawn.add_row(*(Text(printable(str(cell))) for cell in row))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(drawn)


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """Aligned ``name  value`` lines on stdout."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        echo(printable(f"{name:<{width}}  {value}"))


def first_error(error: BaseException) -> BaseException:
    """The cause inside nested exception groups: ours before others'."""
    if isinstance(error, BaseExceptionGroup):
        error = error.subgroup(errors.GolemError) or error
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """Run on trio; groups are unwrapped to the error inside. Ctrl-C ends with INTERRUPTED."""
    import trio

    async def call() -> T:
        return await main()

    # No `except*`: what is raised inside one comes out wrapped in a group again.
    try:
        return trio.run(call)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        for kind in (errors.GolemError, typer.Exit):
            if (ours := group.subgroup(kind)) is not None:
                raise first_error(ours) from None
        raise


def find_node(data_dir: Path | None, api_url: str | None, app_key: str | None) -> tuple[str, str]:
    """URL and app-key: flags and environment first, else what the node of the data directory left.

    Raises NetworkError (no node runs), UsageError (no key).
    """
    where = locations_of(data_dir)
    if api_url is None:
        try:
            running = json.loads(where.running.read_text())
            os.kill(running["pid"], 0)
            if "rest_url" not in running:
                raise errors.NetworkError(
                    f"a bootnode is running on {where.data}: it has no market and no REST API to ask",
                    hint="its log says how many peers and records it has; ask another node with --data-dir",
                )
            api_url = str(running["rest_url"])
        except (FileNotFoundError, ProcessLookupError, ValueError, KeyError):
            raise errors.NetworkError(
                f"no node is running on {where.data}", hint="start one with: golemp2p run; or give --api-url"
            ) from None
        except PermissionError:  # it runs, under another user
            api_url = str(running["rest_url"])
    if app_key is None:
        try:
            app_key = where.app_key.read_text().strip()
        except FileNotFoundError:
            raise errors.UsageError("no app-key", hint="set YAGNA_APPKEY or give --app-key") from None
    return api_url, app_key


@asynccontextmanager
async def open_client(data_dir: Path | None, api_url: str | None, app_key: str | None) -> AsyncIterator[NodeClient]:
    from golemp2p.client import connect

    url, key = find_node(data_dir, api_url, app_key)
    async with connect(url, key) as client:
        yield client


def with_client(
    data_dir: Path | None, api_url: str | None, app_key: str | None, use: Callable[[NodeClient], Awaitable[T]]
) -> T:
    """Run ``use`` with a client of the node."""

    async def main() -> T:
        async with open_client(data_dir, api_url, app_key) as client:
            return await use(client)

    return run_async(main)
