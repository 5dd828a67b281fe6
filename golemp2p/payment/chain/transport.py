"""JSON-RPC to one endpoint, blocking, for a worker thread: web3's HTTP provider with limits on what comes back.

web3 is imported at the first use (1 s, some 40 MB): a node that neither pays nor is paid never loads it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from golemp2p import limits
from golemp2p.payment.chain.errors import EndpointBusyError, EndpointError, RpcAnswerError
from golemp2p.recursion import recursion_limit_kept

Question = tuple[str, Sequence[object]]  # method and parameters
_CHUNK_BYTES: Final = 64 * 1024
_SHOWN_CHARS: Final = 300
_IMPORT: Final = threading.Lock()


def load() -> None:
    """Import web3; blocking, for a worker thread, one at a time: the guard of the recursion limit is not for two."""
    with _IMPORT, recursion_limit_kept():
        import web3.providers.rpc  # noqa: F401


def loaded() -> bool:
    return "web3.providers.rpc" in sys.modules


class Transport:
    """``host`` is all of the URL that is ever shown. After :func:`load`."""

    def __init__(self, url: str, host: str) -> None:
        from web3.providers.rpc import HTTPProvider

        self._host = host
        self._provider: Any = HTTPProvider(
            url,
            request_kwargs={"timeout": limits.CHAIN_CALL_TIMEOUT_S},
            session=_session(),
            exception_retry_configuration=None,  # the pool retries, and knows where
        )

    def ask(self, method: str, params: Sequence[object]) -> Any:
        """The result, as JSON has it. Raises RpcAnswerError, EndpointBusyError, EndpointError."""
        return self._result(self._guarded(self._provider.make_request, method, params), method)

    def ask_all(self, questions: Sequence[Question]) -> list[Any]:
        """In one HTTP request; an RpcAnswerError in the place of a result. Raises EndpointError when the endpoint
        does not take batches."""
        answers = self._guarded(self._provider.make_batch_request, list(questions))
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise EndpointError(f"{self._host} takes no batches of calls")
        results: list[Any] = []
        for (method, _), answer in zip(questions, answers, strict=True):
            try:
                results.append(self._result(answer, method))
            except RpcAnswerError as exc:
                results.append(exc)
        return results

    def _guarded(self, request: Any, *arguments: object) -> Any:
        import requests
        from web3.exceptions import Web3Exception

        try:
            return request(*arguments)
        except requests.HTTPError as exc:
            status = exc.response.status_code if exc.response is not None else 0
            if status in (429, 503):
                after = exc.response.headers.get("Retry-After", "") if exc.response is not None else ""
                wait_s = min(float(after), limits.CHAIN_BACKOFF_MAX_S) if after.strip().isdecimal() else 0.0
                raise EndpointBusyError(f"{self._host} is busy (HTTP {status})", retry_after_s=wait_s) from None
            raise EndpointError(f"{self._host} answers HTTP {status}") from None
        # Never the cause's text: it has the URL, which may hold a key. RecursionError: JSON made to be deep.
        except (
            requests.RequestException,
            Web3Exception,
            OSError,
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
        ) as exc:
            raise EndpointError(f"{self._host} cannot be reached ({type(exc).__name__})") from None

    def _result(self, answer: Any, method: str) -> Any:
        if not isinstance(answer, dict) or not ("result" in answer or "error" in answer):
            raise EndpointError(f"{self._host} answers {method} with something that is no JSON-RPC")
        error = answer.get("error")
        if error is None:
            return answer.get("result")
        fields = error if isinstance(error, dict) else {"message": error}
        text = str(fields.get("message", ""))[:_SHOWN_CHARS]
        code, data = fields.get("code"), fields.get("data")
        if isinstance(data, dict):  # some nest it
            data = data.get("data")
        raised = RpcAnswerError(
            f"{self._host} refused {method}: {text}",
            text=text,
            rpc_code=code if isinstance(code, int) else 0,
            data=data[:2_000] if isinstance(data, str) else "",
        )
        # Of events, "limit exceeded" means too many of them: a smaller question helps, a pause does not.
        if raised.busy and not raised.about_call and method != "eth_getLogs":
            raise EndpointBusyError(f"{self._host} is busy: {text}")
        raise raised


def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):
        """An endpoint may be anybody's: so many bytes, in so much time, and no sending us elsewhere."""

        def send(self, *arguments: Any, **options: Any) -> requests.Response:
            response = super().send(*arguments, **{**options, "stream": True})
            until, parts, size = time.monotonic() + limits.CHAIN_CALL_TIMEOUT_S, [], 0
            for part in response.iter_content(_CHUNK_BYTES):
                size += len(part)
                if size > limits.MAX_CHAIN_ANSWER_BYTES or time.monotonic() > until:
                    response.close()
                    raise requests.exceptions.ContentDecodingError("the answer is too large or too slow")
                parts.append(part)
            response._content = b"".join(parts)
            return response

    session = requests.Session()
    session.max_redirects = 0
    for scheme in ("https://", "http://"):
        session.mount(scheme, Bounded(pool_maxsize=limits.CHAIN_CALLS_AT_ONCE))
    return session
