"""What gftp does, for JSON-RPC and the command line alike."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from golemp2p import __version__
from golemp2p.errors import UsageError
from golemp2p.gftp.files import KnownDigests, Published, Receiving
from golemp2p.gftp.session import Session

if TYPE_CHECKING:
    from golemp2p.gftp.remote import Remote

# The first word is what clients compare: gftp of yagna 0.17, whose API this node speaks.
VERSION: Final = f"0.17.3 (golemp2p {__version__})"
_MAX_PATHS: Final = 10_000


class InvalidParamsError(UsageError):
    pass


class Commands:
    """``anybody``: files are for whoever knows their URL, not only for providers that work for us."""

    def __init__(self, node: Callable[[], tuple[str, str]], *, anybody: bool = False) -> None:
        """``node``: its URL and our app-key; asked for when they are needed first."""
        self._node, self._anybody = node, anybody
        self._session: Session | None = None
        self._digests: KnownDigests = {}  # yapapi publishes the same file anew for each task

    def _connected(self) -> Session:
        if self._session is None:
            self._session = Session(*self._node())
        return self._session

    def _remote(self) -> Remote:
        from golemp2p.gftp.remote import Remote  # 30 ms, and only people use it

        return Remote(*self._node())

    def close_all(self) -> None:
        if self._session is not None:
            self._session.close()

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Raises InvalidParamsError, LookupError (no such method), errors of golemp2p."""
        match method, params:
            case "version", _:
                return VERSION
            case "publish", {"files": [*files]} if files and len(files) <= _MAX_PATHS:
                return [self._publish(_path(file)) for file in files]
            case "receive", {"output_file": file}:
                return self._receive(_path(file))
            case "download", {"url": str(url), "output_file": file}:
                self._remote().download(url, Path(_path(file)))
                return {"file": file, "url": url}
            case "upload", {"url": str(url), "file": file}:
                self._remote().upload(Path(_path(file)), url)
                return {"file": file, "url": url}
            case "close", {"urls": [*urls]} if urls:
                return ["ok" if self._close(str(url)) else "error" for url in urls]
            case "publish" | "receive" | "close" | "download" | "upload", _:
                raise InvalidParamsError(f"{method}: wrong parameters")
            case _:
                raise LookupError(f"there is no method {method[:40]!r}")

    def _publish(self, path: str) -> dict[str, str]:
        published = Published(Path(path), self._digests)
        try:
            address = self._connected().bind(published.sha3_256, published, anybody=self._anybody)
        except BaseException:  # Ctrl-C too: nobody would close the file
            published.close()
            raise
        return {"file": path, "url": f"gftp://{address}/{published.sha3_256}"}

    def _receive(self, path: str) -> dict[str, str]:
        receiving, name = Receiving(Path(path)), secrets.token_hex(24)
        try:
            address = self._connected().bind(name, receiving, anybody=self._anybody)
        except BaseException:  # Ctrl-C too: its partial file would stay
            receiving.close()
            raise
        return {"file": path, "url": f"gftp://{address}/{name}"}

    def _close(self, url: str) -> bool:
        return self._session is not None and self._session.unbind(url.rpartition("/")[2])


def _path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidParamsError("a file is named by its path")
    return value
