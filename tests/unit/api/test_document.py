"""protocols/rest/README.md names every call that the node has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from golemp2p.api import activity, files, market, node, payment

DOCUMENT = (Path(__file__).parents[3] / "protocols" / "rest" / "README.md").read_text()
NOTHING = cast(Any, type("Service", (), {"__getattr__": lambda self, name: self})())  # routes are made, not called


@pytest.mark.parametrize("module", [market, activity, payment, files, node], ids=lambda m: m.__name__)
def test_every_route_is_in_the_document(module: Any) -> None:
    router: APIRouter = module.make_router(NOTHING)
    for route in router.routes:
        assert isinstance(route, APIRoute)
        path = route.path
        for prefix in ("/market-api/v1", "/activity-api/v1", "/payment-api/v1"):
            path = path.removeprefix(prefix)
        for method in route.methods or ():
            assert f"`{method} {path}`" in DOCUMENT
