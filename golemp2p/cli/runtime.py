"""`golemp2p runtime`: what this machine can run for others, found out by running it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import AsJson, DataDir, ExitCode, echo, echo_json, facts, locations_of, run_async, say, table
from golemp2p.errors import GolemError, NotFoundError

if TYPE_CHECKING:
    from golemp2p.config import Settings
    from golemp2p.locations import Locations
    from golemp2p.runtimes.base import Probe, Runtime

app = typer.Typer(help="What this machine can run for others, found out by running it.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """What this machine can run for others, found out by running it."""


@app.command("list", epilog="Example: golemp2p runtime list --json")
def list_runtimes(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Try every runtime that is built in or configured: whether it works here, why not, and what it measured.

    `offered` are those that `golemp2p run --provider` sells (setting provider.runtimes).
    """
    where, settings = _settings(data_dir)
    lines = run_async(partial(_try_all, where, settings))
    if as_json:
        echo_json(lines)
        return
    table(
        ["runtime", "offered", "works", "isolation", "start s", "cpu score", "why not, and what to do"],
        [
            [
                line["id"],
                "yes" if line["offered"] else "",
                "yes" if line["works"] else "no",
                line["isolation"],
                line["measured"].get("start_s", ""),
                line["measured"].get("cpu_score", ""),
                line["reason"] + (f" ({line['hint']})" if line["hint"] else ""),
            ]
            for line in lines
        ],
    )


@app.command(epilog="Example: golemp2p runtime test vm/docker")
def test(
    name: Annotated[str, typer.Argument(metavar="RUNTIME", help="wasmtime, vm, vm/docker, vm/qemu or a custom one.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run something small in RUNTIME; exit code 0 when that works here, 1 when not."""
    where, settings = _settings(data_dir)
    line = run_async(partial(_try_one, name, where, settings))
    if as_json:
        echo_json(line)
    elif line["works"]:
        facts([(f"{line['id']} works", ""), *((n, str(v)) for n, v in line["measured"].items())])
    else:
        say(f"golemp2p: {line['id']} does not work here: {line['reason']}")
        if line["hint"]:
            say(f"  hint: {line['hint']}")
    raise typer.Exit(ExitCode.OK if line["works"] else ExitCode.FAILED)


@app.command(epilog="Example: golemp2p runtime describe wasmtime")
def describe(
    name: Annotated[str, typer.Argument(metavar="RUNTIME", help="wasmtime, vm, vm/docker, vm/qemu or a custom one.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The offer properties that describe RUNTIME, without trying it."""
    where, settings = _settings(data_dir)
    runtime = _make(name, where, settings)
    properties = dict(runtime.offer_properties())
    if as_json:
        echo_json({"id": runtime.id, "name": runtime.name, "version": runtime.version, "properties": properties})
        return
    echo(runtime.id)
    facts(sorted(properties.items()))


def _settings(data_dir: Any) -> tuple[Locations, Settings]:
    from golemp2p import log
    from golemp2p.config import load_settings

    log.configure("warning")
    where = locations_of(data_dir)
    return where, load_settings(where.config)


def _make(name: str, where: Locations, settings: Settings) -> Runtime:
    from golemp2p.runtimes.registry import known_ids, make_runtime, resolve_id

    chosen = resolve_id(name, settings)
    if chosen not in known_ids(settings):
        known = ", ".join(known_ids(settings))
        raise NotFoundError(f"there is no runtime {name!r}", hint=f"there are: {known}")
    return make_runtime(chosen, settings, where)


async def _try_all(where: Locations, settings: Settings) -> list[dict[str, Any]]:
    from golemp2p.runtimes.registry import known_ids

    return [await _try_one(name, where, settings) for name in known_ids(settings)]


async def _try_one(name: str, where: Locations, settings: Settings) -> dict[str, Any]:
    from golemp2p.runtimes.base import Probe
    from golemp2p.runtimes.registry import resolve_id

    offered = [resolve_id(one, settings) for one in settings.provider.runtimes]
    chosen = resolve_id(name, settings)
    try:
        runtime = _make(name, where, settings)
    except NotFoundError:
        raise
    except GolemError as exc:  # a third party's package that does not load
        return _line(chosen, {}, Probe(False, exc.message, exc.hint), chosen in offered)
    return _line(runtime.id, dict(runtime.offer_properties()), await runtime.probe(), chosen in offered)


def _line(name: str, properties: dict[str, Any], probe: Probe, offered: bool) -> dict[str, Any]:
    return {
        "id": name,
        "offered": offered,
        "works": probe.works,
        "isolation": properties.get("golem.!exp.golemp2p.isolation", ""),
        "reason": probe.reason,
        "hint": probe.hint,
        "measured": dict(probe.measured),
    }
