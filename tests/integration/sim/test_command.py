"""scripts/simulate as people and the nightly run use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATIENCE_S = 110


def _simulate(*words: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/simulate"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_two_processes_with_one_seed_have_one_digest_and_another_seed_another() -> None:
    words = ("provider-crash", "--nodes", "8", "--until", "150", "--json")
    runs = [json.loads(_simulate(*words, "--seed", seed).stdout) for seed in ("11", "11", "12")]
    digests = [run["digest"] for run in runs]
    assert digests[0] == digests[1] != digests[2]
    assert runs[0]["events"]["crash"] > 0


def test_pictures_and_a_table_come_out_of_a_run(tmp_path: Path) -> None:
    done = _simulate("first-offers", "--nodes", "6", "--plot", str(tmp_path), "--log", str(tmp_path / "log"))
    assert done.returncode == 0, done.stderr
    assert "tasks done" in done.stdout
    assert "all properties hold" in done.stdout
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {
        f"first-offers-{name}.png" for name in ("offers-known", "propagation", "traffic", "work", "money", "topology")
    }
    assert "agreement" in (tmp_path / "log").read_text()


def test_a_failure_prints_the_command_that_replays_it(tmp_path: Path) -> None:
    scenario = tmp_path / "hopeless.toml"
    scenario.write_text(
        'name = "hopeless"\nuntil_s = 30\n[[requestors]]\ncount = 1\ntasks = 1\n[expect]\ntasks_done = 1.0\n'
    )
    done = _simulate(str(scenario), "--seed", "5")
    assert done.returncode == 1
    assert f"scripts/simulate {scenario} --seed 5" in done.stderr.replace("\n", "")


def test_a_short_sweep_finds_nothing() -> None:
    done = _simulate("provider-crash", "--nodes", "6", "--sweep", "seeds=3")
    assert done.returncode == 0, done.stdout
    assert "3 runs, 0 broken" in done.stdout


def test_the_list_names_the_scenarios() -> None:
    done = _simulate("--list")
    assert "ten-thousand" in done.stdout
    assert done.returncode == 0
