"""What several routers take and give: who calls, reasons, bounds of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Body, Depends
from starlette.responses import JSONResponse

from golemp2p import limits
from golemp2p.api.auth import Caller, current_caller
from golemp2p.errors import UsageError
from golemp2p.wire.p2p.market import checked_reason
from golemp2p.wire.rest.base import RestModel

Me = Annotated[Caller, Depends(current_caller)]
ReasonBody = Annotated[dict[str, Any] | None, Body(description="`message`, and what else the sender likes")]


def reason_of(raw: Any) -> dict[str, Any]:
    """Clients require ``message`` in every reason. Raises UsageError (too large, no JSON)."""
    reason = {"message": "", **(raw if isinstance(raw, dict) else {})}
    try:
        return checked_reason(reason)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def checked_max_events(value: int) -> int:
    if not 0 < value <= limits.MAX_POLL_EVENTS:
        raise UsageError(f"maxEvents is {value}", hint=f"1 to {limits.MAX_POLL_EVENTS}")
    return value


def listed(models: Sequence[RestModel]) -> JSONResponse:
    return JSONResponse([model.to_json() for model in models])
