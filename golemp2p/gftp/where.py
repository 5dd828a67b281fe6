"""Which node, and with which app-key: the environment first, else what the node of the data directory left there."""

from __future__ import annotations

import json
import os
from typing import Final

from golemp2p.errors import UsageError

_URLS: Final = ("GOLEMP2P_API_URL", "YAGNA_API_URL")
_KEYS: Final = ("GOLEMP2P_APPKEY", "YAGNA_APPKEY")
_DEFAULT_URL: Final = "http://127.0.0.1:7465"


def find_node() -> tuple[str, str]:
    """URL and app-key. Raises UsageError (no key)."""
    from golemp2p.locations import Locations  # 20 ms

    where = Locations.find()
    url = next((os.environ[name] for name in _URLS if os.environ.get(name)), "")
    if not url:
        try:
            url = str(json.loads(where.running.read_text())["rest_url"])
        except (OSError, ValueError, KeyError, TypeError):
            url = _DEFAULT_URL
    key = next((os.environ[name] for name in _KEYS if os.environ.get(name)), "")
    if not key:
        try:
            key = where.app_key.read_text().strip()
        except OSError:
            hint = "set YAGNA_APPKEY, or start a node here with: golemp2p run"
            raise UsageError("no app-key and no node of this user", hint=hint) from None
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url[:80]!r} is no URL of a node", hint="YAGNA_API_URL=http://127.0.0.1:7465")
    return url, key
