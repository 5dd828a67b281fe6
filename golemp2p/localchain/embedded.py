"""The fallback chain: py-evm through eth-tester, served as JSON-RPC over HTTP. ``python -m … PORT`` in a child process.

Blocks are made at once for each transaction; about 30 transactions a second; chain id fixed by eth-tester.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from golemp2p import limits

# What eth-tester does not have. A gas price history: one block at its base fee.
_TIP: Final = 10**9


def make_backend() -> Any:
    from eth_tester import EthereumTester, PyEVMBackend
    from web3.providers.eth_tester import EthereumTesterProvider

    return EthereumTesterProvider(EthereumTester(PyEVMBackend()))


def to_json(value: Any) -> Any:
    """Python values of eth-tester as JSON-RPC has them: quantities and data in hex."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    return value


class Chain:
    def __init__(self) -> None:
        from web3 import Web3

        self._provider = make_backend()
        self._web3 = Web3(self._provider)
        self._lock = threading.Lock()  # each kept-alive connection has a thread, the chain is for one at a time

    def answer(self, method: str, params: list[Any]) -> Any:
        """Raises ValueError with the reason."""
        with self._lock:
            return self._answer(method, params)

    def _answer(self, method: str, params: list[Any]) -> Any:
        from eth_tester.exceptions import BlockNotFound, TransactionNotFound
        from eth_utils.exceptions import ValidationError
        from web3.exceptions import Web3Exception

        if method == "eth_feeHistory":
            base = self._web3.eth.get_block("latest")["baseFeePerGas"]
            return {"baseFeePerGas": [hex(base), hex(base)], "reward": [[hex(_TIP)]]}
        try:
            return to_json(self._web3.manager.request_blocking(method, params))  # type: ignore[arg-type]  # a NewType
        except (TransactionNotFound, BlockNotFound):
            return None
        except (Web3Exception, ValidationError, NotImplementedError, TypeError) as exc:
            if "TransactionNotFound" in type(exc).__name__:
                return None
            raise ValueError(_in_usual_words(f"{type(exc).__name__}: {exc}")) from exc


def _in_usual_words(message: str) -> str:
    """As other nodes say it, so that clients understand."""
    nonces = re.search(r"nonce: Expected (\d+), but got (\d+)", message)
    if nonces is None:
        return message
    return "nonce too low" if int(nonces[2]) < int(nonces[1]) else "nonce too high: there is no pool here"


def make_server(port: int, chain: Chain) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = min(int(self.headers.get("Content-Length", 0)), limits.MIB)
            request = json.loads(self.rfile.read(length))
            reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request.get("id")}
            try:
                reply["result"] = chain.answer(request["method"], request.get("params") or [])
            except Exception as exc:  # noqa: BLE001 - py-evm's many exceptions are all answers here
                reply["error"] = {"code": -32000, "message": str(exc) or type(exc).__name__}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Quiet."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    make_server(int(sys.argv[1]), Chain()).serve_forever()


if __name__ == "__main__":
    main()
