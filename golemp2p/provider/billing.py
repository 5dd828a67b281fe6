"""Under one approved agreement: debit notes while activities run, one invoice at the end, and when to end it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Final

import anyio
import structlog

from golemp2p.client import NodeClient
from golemp2p.core.money import Amount, format_amount, linear_cost
from golemp2p.core.properties import Properties
from golemp2p.errors import GolemError, GoneError
from golemp2p.provider.negotiator import EXPIRATION
from golemp2p.provider.offer import ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT
from golemp2p.wire.rest.market import Agreement

log = structlog.get_logger("golemp2p.provider")

END_WAIT_S: Final = 30.0  # what the node may take to end an activity
NO_ACTIVITY_S: Final = 90.0  # as Golem's provider: an agreement without an activity is ended
_NAMESPACE: Final = uuid.UUID("6f1c1a7e-9f0c-4b4e-8a35-9d5c1f0f3c11")


@dataclass
class Contract:
    """What the agent knows of one agreement; the node has everything that must survive."""

    agreement: Agreement
    live: set[str] = field(default_factory=set)
    final: dict[str, Amount] = field(default_factory=dict)
    ended: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)

    @property
    def id(self) -> str:
        return self.agreement.agreement_id

    def wake(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    def seconds(self, name: str, default: float) -> float:
        """A negotiated time: of the demand, else of the offer."""
        for properties in (self.agreement.demand.properties, self.agreement.offer.properties):
            value = properties.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        return default

    @property
    def expires_at(self) -> float:
        value = self.agreement.demand.properties.get(EXPIRATION)
        return float(value) / 1000 if isinstance(value, int | float) else time.time() + NO_ACTIVITY_S

    @property
    def single_activity(self) -> bool:
        return self.agreement.demand.properties.get("golem.srv.caps.multi-activity") is not True


def cost_of(offer: Properties, usage: list[float]) -> Amount:
    """By the agreed linear price."""
    coeffs = offer["golem.com.pricing.model.linear.coeffs"]
    if not isinstance(coeffs, list):
        raise TypeError("the offer that we made has no linear price")
    return linear_cost([float(c) for c in coeffs], usage)


async def serve_contract(client: NodeClient, contract: Contract) -> None:
    """From approval to the invoice. Returns when the invoice is handed to the node for delivery."""
    async with anyio.create_task_group() as group:
        billed: set[str] = set()
        idle_since = time.time()
        while not contract.ended:
            news = contract.news
            for activity in contract.live - billed:
                billed.add(activity)
                group.start_soon(_bill_activity, client, contract, activity)
            if contract.live:
                idle_since = time.time()
            if contract.single_activity and contract.final and not contract.live:
                await _terminate(client, contract, "Success", "the activity ended")
                continue
            until = contract.expires_at if contract.live else min(contract.expires_at, idle_since + NO_ACTIVITY_S)
            if time.time() >= until:
                expired = time.time() >= contract.expires_at
                code, text = ("Expired", "the demand expired") if expired else ("NoActivity", "no activity for 90 s")
                await _terminate(client, contract, code, text)
                continue
            with anyio.move_on_after(max(0.0, until - time.time())):
                await news.wait()
        # The node ends the activities of an ended agreement; their billing tasks issue the last notes and return.
    await _invoice(client, contract)


async def _bill_activity(client: NodeClient, contract: Contract, activity: str) -> None:
    interval_s = contract.seconds(NOTE_INTERVAL, 120.0)
    accept_s = contract.seconds(ACCEPT_TIMEOUT, 240.0)
    pending: list[tuple[float, str]] = []  # (deadline, note)
    while activity in contract.live and not contract.ended:
        with anyio.move_on_after(interval_s):
            while activity in contract.live and not contract.ended:
                await contract.news.wait()
        if activity not in contract.live or contract.ended:
            break
        if note := await _note(client, contract, activity):
            pending.append((time.time() + accept_s, note))
        if overdue := await _overdue(client, pending):
            await _terminate(client, contract, "DebitNotesDeadline", f"debit note {overdue} was not accepted in time")
    with anyio.move_on_after(END_WAIT_S):
        await _wait_ended(client, contract, activity)
    usage = await client.activity.usage(activity)
    contract.final[activity] = cost_of(contract.agreement.offer.properties, usage)
    await _note(client, contract, activity)
    contract.live.discard(activity)
    contract.wake()


async def _wait_ended(client: NodeClient, contract: Contract, activity: str) -> None:
    """Its usage is final only once it has ended."""
    while (await client.activity.state(activity))["state"][0] != "Terminated":
        await contract.news.wait()


async def _note(client: NodeClient, contract: Contract, activity: str) -> str | None:
    """Issue and send a debit note over the usage so far; its id."""
    try:
        usage = await client.activity.usage(activity)
        note = await client.payment.issue_debit_note(
            activity,
            agreement=contract.id,
            amount=format_amount(cost_of(contract.agreement.offer.properties, usage)),
            usage=usage,
        )
        await client.payment.send("debitNote", note.debit_note_id)
    except GolemError as exc:
        log.warning("debit_note_failed", agreement=contract.id, activity=activity, error=str(exc))
        return None
    log.info("debit_note_sent", agreement=contract.id, activity=activity, amount=note.total_amount_due)
    return note.debit_note_id


async def _overdue(client: NodeClient, pending: list[tuple[float, str]]) -> str | None:
    """The first note whose acceptance is late; accepted ones are dropped from ``pending``."""
    now = time.time()
    for deadline, note in list(pending):
        status = (await client.payment.debit_note(note)).status
        if status in ("ACCEPTED", "SETTLED"):
            pending.remove((deadline, note))
        elif now > deadline or status == "REJECTED":
            return note
    return None


async def _terminate(client: NodeClient, contract: Contract, code: str, message: str) -> None:
    try:
        await client.market.terminate(contract.id, {"message": message, "golem.provider.code": code})
    except GoneError:
        log.debug("terminated_before", agreement=contract.id)
    contract.ended = True
    contract.wake()


def invoice_id_of(agreement: str) -> str:
    """The same for the same agreement: issuing twice (a restart in between) is harmless."""
    return str(uuid.uuid5(_NAMESPACE, agreement))


async def _invoice(client: NodeClient, contract: Contract) -> None:
    """Always, also over nothing: clients wait for it without limit."""
    invoice = await client.payment.issue_invoice(
        contract.id,
        activities=sorted(contract.final),
        amount=format_amount(sum(contract.final.values())),
        due_at=time.time() + contract.seconds(PAYMENT_TIMEOUT, 120.0),
        document=invoice_id_of(contract.id),
    )
    await client.payment.send("invoice", invoice.invoice_id)
    log.info("invoice_sent", agreement=contract.id, amount=invoice.amount)
