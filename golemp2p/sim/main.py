"""The command line of scripts/simulate."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golemp2p.errors import UsageError
from golemp2p.sim.report import as_json, print_summary
from golemp2p.sim.scenario import Scenario, load, shipped
from golemp2p.sim.sweep import sweep
from golemp2p.sim.world import Result, World, simulate

OK, BROKEN, WRONG_USE = 0, 1, 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Simulate a golemp2p network.")
    parser.add_argument("scenario", nargs="*", help="names of shipped scenarios, or TOML files")
    parser.add_argument("--list", action="store_true", help="the shipped scenarios")
    parser.add_argument("--nodes", type=int, help="as many nodes instead, in the scenario's shares")
    parser.add_argument("--seed", type=int, help="another seed")
    parser.add_argument("--until", type=float, help="virtual seconds to simulate")
    parser.add_argument("--spread", choices=("auto", "gossip", "rendezvous"), help="how offers are found")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="pictures into this directory (needs matplotlib)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the event log")
    parser.add_argument("--sweep", metavar="seeds=N", help="run each scenario with N seeds; only failures are shown")
    return parser


def _scenario(options: argparse.Namespace, name: str) -> Scenario:
    scenario = load(name)
    if options.nodes is not None:
        if options.nodes < 1:
            raise UsageError("--nodes is at least 1")
        scenario = scenario.scaled(options.nodes)
    changes = {"seed": options.seed, "spread": options.spread}
    return scenario.model_copy(update={key: value for key, value in changes.items() if value is not None})


def replay_command(name: str, scenario: Scenario, options: argparse.Namespace) -> str:
    """What runs exactly this again."""
    words = ["scripts/simulate", name, "--seed", str(scenario.seed)]
    for option in ("nodes", "until", "spread"):
        value = getattr(options, option)
        if value is not None:
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def _run(options: argparse.Namespace, name: str) -> Result:
    scenario = _scenario(options, name)
    until_s = scenario.until_s if options.until is None else options.until
    if not 0 < until_s < math.inf:
        raise UsageError("--until is a number of seconds, more than 0")
    try:  # now: not after a long run
        if options.plot is not None:
            options.plot.mkdir(parents=True, exist_ok=True)
        log_file = options.log.open("w") if options.log else None
    except OSError as exc:
        raise UsageError(f"cannot write to {exc.filename}: {exc.strerror}") from exc
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[news]}"), TimeElapsedColumn()]
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(scenario.name, total=until_s, news="")

            def progress(world: World) -> None:
                sample = world.measures.samples[-1]
                news = (
                    f"{sample.at_s:.0f} s, {sample.nodes} nodes, {sample.known_share:.0%} of {sample.live_offers}"
                    f" offers known, {sample.agreements} agreements, {sample.tasks} tasks"
                )
                bar.update(task, completed=sample.at_s, news=news)

            result = simulate(scenario, until_s=until_s, log_file=log_file, progress=progress)
    except Exception:  # a bug of a service or of the simulation: the traceback follows
        console.print(f"[red]it broke; again with:[/red] {replay_command(name, scenario, options)}", soft_wrap=True)
        raise
    finally:
        if log_file is not None:
            log_file.close()
    if options.plot is not None:
        from golemp2p.sim.plots import draw  # matplotlib is needed here alone

        for path in draw(result, options.plot):
            console.print(f"wrote {path}")
    if options.json:
        json.dump(as_json(result), sys.stdout, indent=1)
        print()
    else:
        print_summary(result, Console())
    if result.problems:
        again = replay_command(name, scenario, options)
        console.print(f"[red]{len(result.problems)} problems; again with:[/red] {again}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """0: all properties hold; 1: a property is broken (the command that replays it is printed); 2: wrong use."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.list:
            for name, about in shipped().items():
                print(f"{name:18} {about}")
            return OK
        names = options.scenario or (list(shipped()) if options.sweep else [])
        if not names:
            parser.error("name a scenario, or --list")
        if options.sweep:
            return BROKEN if sweep(names, _seeds(options.sweep), partial_scenario(options), options.until) else OK
        results = [_run(options, name) for name in names]
    except UsageError as exc:
        print(f"simulate: {exc}", file=sys.stderr)
        return WRONG_USE
    return BROKEN if any(result.problems for result in results) else OK


def partial_scenario(options: argparse.Namespace) -> dict[str, object]:
    """What a sweep changes in every scenario."""
    return {key: getattr(options, key) for key in ("nodes", "spread") if getattr(options, key) is not None}


def _seeds(text: str) -> range:
    """``seeds=N`` or ``seeds=A-B``. Raises UsageError."""
    name, _, value = text.partition("=")
    first, _, last = value.partition("-")
    if name != "seeds" or not first.isdecimal() or not (last.isdecimal() or "-" not in value):
        raise UsageError(f"--sweep {text!r} is not understood", hint="seeds=200 or seeds=17-30")
    seeds = range(int(first), int(last) + 1) if last else range(1, int(first) + 1)
    if not seeds:
        raise UsageError(f"--sweep {text!r} names no seed", hint="seeds=200 or seeds=17-30")
    return seeds


__all__ = ["main", "replay_command"]
