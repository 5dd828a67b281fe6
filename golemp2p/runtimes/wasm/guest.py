"""Compiling and running one program inside the worker. Imports nothing of golemp2p but its neighbours."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golemp2p.runtimes.wasm.profiles import MAGIC_COMPONENT, MAGIC_MODULE, Profile, engine_config

UNLIMITED_FUEL = 2**62
TABLE_ELEMENTS = 1_000_000  # 8 MB; CPython's module has about 10 000
COMPONENT_PARTS = 64  # instances, tables and memories of one component; a Rust or C program has five
RUN_INTERFACE = "wasi:cli/run@0.2."
WASI_PACKAGES = ("wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/")

# What wasmtime says of a trap in a component: its binding gives text alone there.
_TRAPS = (("all fuel consumed", "OUT_OF_FUEL"), ("`unreachable`", "UNREACHABLE"), ("interrupt", "INTERRUPT"))


def compile_program(order: dict[str, Any]) -> dict[str, Any]:
    """Check ``package``, compile it and write the serialized program to ``output``."""
    import wasmtime

    code = Path(order["package"]).read_bytes()
    profile = Profile(order["profile"])
    engine = wasmtime.Engine(engine_config(profile))
    if code.startswith(MAGIC_MODULE):
        compiled, complaint = _compile_module(engine, code)
    elif code.startswith(MAGIC_COMPONENT):
        if profile is Profile.DETERMINISTIC:
            return {"error": "the package is a component: deterministic runs are for WASI preview 1 modules"}
        compiled, complaint = _compile_component(engine, code)
    else:
        return {"error": f"the package is no WebAssembly program (it starts with {code[:8].hex() or 'nothing'})"}
    if complaint:
        return {"error": complaint}
    with Path(order["output"]).open("wb") as file:
        file.write(compiled.serialize())
        file.flush()
        os.fsync(file.fileno())
    return {}


def _compile_module(engine: Any, code: bytes) -> tuple[Any, str]:
    import wasmtime

    try:
        module = wasmtime.Module(engine, code)
    except wasmtime.WasmtimeError as exc:
        return None, f"the module is not valid: {first_lines(exc)}"
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    unknown = []
    for item in module.imports:
        try:
            linker.get(store, item.module, item.name)
        except wasmtime.WasmtimeError:
            unknown.append(f"{item.module}.{item.name}")
    if unknown:
        return None, f"the module imports what this runtime does not have: {_some(unknown)}"
    try:
        linker.instantiate_pre(module)
    except wasmtime.WasmtimeError as exc:
        return None, f"the module's imports do not fit: {first_lines(exc)}"
    if not any(item.name == "_start" for item in module.exports):
        return None, "the module exports no _start function: it is a library, not a command"
    return module, ""


def _compile_component(engine: Any, code: bytes) -> tuple[Any, str]:
    import wasmtime
    from wasmtime.component import Component

    try:
        component = Component(engine, code)
    except wasmtime.WasmtimeError as exc:
        return None, f"the component is not valid: {first_lines(exc)}"
    with component.type as kind:
        imports, exports = list(kind.imports(engine)), list(kind.exports(engine))
    # Looked at by name: linking it would already run code of it.
    unknown = [name for name in imports if not (name.startswith(WASI_PACKAGES) and "@0.2." in name)]
    if unknown:
        return None, f"the component imports what this runtime does not have: {_some(unknown)}"
    if not any(name.startswith(RUN_INTERFACE) for name in exports):
        return None, f"the component does not export {RUN_INTERFACE}x: it is a library, not a command"
    return component, ""


def run_program(order: dict[str, Any], peak_bytes: Callable[[], int]) -> dict[str, Any]:
    """Run the serialized program to its end and say how it ended and what it used."""
    import wasmtime

    profile = Profile(order["profile"])
    engine = wasmtime.Engine(engine_config(profile))
    load = _load_component if order["component"] else _load_module
    try:
        program = load(engine, order["module"])
    except wasmtime.WasmtimeError as exc:
        return {"stale": f"the compiled program does not load: {first_lines(exc)}"}
    store = wasmtime.Store(engine)
    parts = COMPONENT_PARTS if order["component"] else 1
    # One memory and one instance more: the shim of deterministic runs.
    spare = 1 if profile is Profile.DETERMINISTIC else 0
    store.set_limits(
        memory_size=order["memory_bytes"],
        table_elements=TABLE_ELEMENTS,
        instances=parts + spare,
        memories=parts + spare,
    )
    budget = order["fuel"] or UNLIMITED_FUEL
    if profile.metered:
        store.set_fuel(budget)
    if profile is Profile.INTERRUPTIBLE:
        store.set_epoch_deadline(1)
        timer = threading.Timer(order["wall_s"], engine.increment_epoch)
        timer.daemon = True
        timer.start()
    store.set_wasi(_wasi(order))
    outcome: dict[str, Any] = {"code": 0, "trap": None, "message": "", "linear_bytes": 0}
    before_bytes = peak_bytes()
    try:
        program(store, outcome, bytes.fromhex(order["seed"]) if spare else None)
    except wasmtime.ExitTrap as exc:
        outcome["code"] = exc.code
    except wasmtime.Trap as exc:
        outcome |= {"trap": exc.trap_code.name if exc.trap_code else "UNKNOWN", "message": first_lines(exc)}
    except wasmtime.WasmtimeError as exc:
        message = first_lines(exc)
        trap = next((name for words, name in _TRAPS if words in message), "ERROR")
        outcome |= {"trap": trap, "message": message}
    if memory := outcome.pop("memory", None):
        outcome["linear_bytes"] = memory.data_len(store)
    outcome["fuel"] = budget - store.get_fuel() if profile.metered else 0
    outcome["memory_peak_bytes"] = peak_bytes()
    if order["component"]:  # its memories cannot be reached: what the process grew by stands for them
        outcome["linear_bytes"] = outcome["memory_peak_bytes"] - before_bytes
    return outcome


def _wasi(order: dict[str, Any]) -> Any:
    import wasmtime

    wasi = wasmtime.WasiConfig()
    wasi.argv = order["argv"]
    wasi.env = order["env"]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for host, guest in order["dirs"]:
        wasi.preopen_dir(host, guest)
    return wasi


def _load_module(engine: Any, path: str) -> Callable[[Any, dict[str, Any], bytes | None], None]:
    import wasmtime

    from golemp2p.runtimes.wasm import deterministic

    module = wasmtime.Module.deserialize_file(engine, path)

    def run(store: Any, outcome: dict[str, Any], seed: bytes | None) -> None:
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        if seed is not None:
            deterministic.shadow(linker, store, engine, seed)
        exports = linker.instantiate(store, module).exports(store)
        memory = exports.get("memory")
        if isinstance(memory, wasmtime.Memory):
            outcome["memory"] = memory
        exports["_start"](store)

    return run


def _load_component(engine: Any, path: str) -> Callable[[Any, dict[str, Any], bytes | None], None]:
    import wasmtime
    from wasmtime.component import Component, Linker

    component = Component.deserialize_file(engine, path)

    def run(store: Any, outcome: dict[str, Any], _seed: bytes | None) -> None:
        with component.type as kind:
            interface = next(name for name in kind.exports(engine) if name.startswith(RUN_INTERFACE))
        linker = Linker(engine)
        linker.add_wasip2()
        instance = linker.instantiate(store, component)
        exported = instance.get_export_index(store, interface)
        entry = exported and instance.get_export_index(store, "run", exported)
        function = entry and instance.get_func(store, entry)
        if not function:
            raise wasmtime.WasmtimeError(f"{interface} has no function run")
        result = function(store)
        outcome["code"] = 0 if getattr(result, "tag", "err") == "ok" else 1

    return run


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def first_lines(exc: Exception) -> str:
    """wasmtime's text without the backtrace: the last line holds the cause."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    if len(lines) > 1 and "Caused by:" in lines:
        at = lines.index("Caused by:")
        lines = ([] if "backtrace" in lines[0] else lines[:1]) + lines[at + 1 :]
    return "; ".join(lines[:3])[:500]
