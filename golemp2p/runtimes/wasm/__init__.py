"""Runtime "wasmtime": WASI preview 1 and 2 programs, each run in a worker process of its own that can be killed.

Kept empty on purpose: the worker imports this package at every start. The public name is
:class:`golemp2p.runtimes.wasm.runtime.WasmRuntime`.
"""
