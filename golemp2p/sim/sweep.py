"""Many seeds of many scenarios, some processes at a time; a failure is one line with the command that replays it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

RUN_TIMEOUT_S: Final = 1_800.0


@dataclass(frozen=True)
class Outcome:
    command: str
    problems: tuple[str, ...]


def sweep(names: Sequence[str], seeds: range, changes: Mapping[str, object], until_s: float | None) -> list[Outcome]:
    """What failed. Each run is a process of its own: the order of sets of strings is then the same as in a replay."""
    jobs = []
    for name in names:
        for seed in seeds:
            words = [name, "--seed", str(seed)]
            for key, value in changes.items():
                words += [f"--{key}", str(value)]
            if until_s is not None:
                words += ["--until", f"{until_s:g}"]
            jobs.append(words)
    failures: list[Outcome] = []
    done = 0
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2))) as pool:
        for outcome in pool.map(_run, jobs):
            done += 1
            if outcome.problems:
                failures.append(outcome)
                print(f"BROKEN  {outcome.command}", flush=True)
                for problem in outcome.problems:
                    print(f"        {problem}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{done} of {len(jobs)}, {len(failures)} broken", end="", file=sys.stderr, flush=True)
    print(f"{len(jobs)} runs, {len(failures)} broken", flush=True)
    return failures


def _run(words: list[str]) -> Outcome:
    command = shlex.join(["scripts/simulate", *words])
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    program = "import sys; from golemp2p.sim.main import main; sys.exit(main())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *words, "--json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(command, (f"it did not end within {RUN_TIMEOUT_S:g} s",))
    try:
        return Outcome(command, tuple(json.loads(done.stdout)["problems"]))
    except (ValueError, KeyError, TypeError):
        return Outcome(command, (f"it failed: {done.stderr.strip()[-2000:]}",))
