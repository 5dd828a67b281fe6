"""Under one approved agreement: debit notes while activities run, one invoice at the end, and when to end it.

The node has everything that must survive; this can be cut off anywhere and begun again (:func:`serve_contract` with a
new Contract). Amounts never go down: what a note has claimed is the least that its activity costs.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import Final

import anyio
import structlog

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.core.money import Amount, format_amount, parse_amount
from golemp2p.errors import ConflictError, GolemError
from golemp2p.provider.contract import NO_ACTIVITY_S, Contract, again, cost_of
from golemp2p.provider.exposure import Exposure, note_interval_s, uses_channel
from golemp2p.provider.offer import ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT

log = structlog.get_logger("golemp2p.provider")

END_WAIT_S: Final = 30.0  # what the node may take to end an activity
STATE_CHECK_S: Final = 1.0  # in case the news of an end was missed
PAYMENT_GRACE_S: Final = 120.0  # past a payable note's due date: blocks and confirmations take their time
_NAMESPACE: Final = uuid.UUID("6f1c1a7e-9f0c-4b4e-8a35-9d5c1f0f3c11")


@dataclass(frozen=True)
class Pending:
    """A debit note that waits for its acceptance, then, if it is payable, for its payment. Event-loop times.

    Once it is accepted, ``accept_by`` is the time of payment: what the requestor has to do next.
    """

    note: str
    accept_by: float
    pay_by: float | None

    def deadline(self, status: str) -> float | None:
        """Until when the requestor has to act; None when it has done everything."""
        if status in ("SETTLED", "CANCELLED"):
            return None
        return self.pay_by if status == "ACCEPTED" else self.accept_by


async def serve_contract(client: NodeClient, contract: Contract) -> None:
    """From approval to the invoice. Returns when the invoice is handed to the node for delivery."""
    await _learn(client, contract)
    async with anyio.create_task_group() as group:
        started: set[str] = set()

        def bill_new_ones() -> None:
            for activity in contract.seen - started:
                started.add(activity)
                group.start_soon(_bill_activity, client, contract, activity)

        if uses_channel(contract):
            group.start_soon(_watch_exposure, client, contract)
        now = anyio.current_time()
        expires, idle_since, was_live = now + contract.life_s, now, False
        while not contract.ended:
            news = contract.news
            bill_new_ones()
            now = anyio.current_time()
            if contract.live or was_live:  # it may have run until just now
                idle_since = now
            was_live = bool(contract.live)
            all_billed = contract.seen == set(contract.final)
            if contract.single_activity and contract.seen and all_billed and not contract.live:
                await _terminate(client, contract, "Success", "the activity ended")
            elif now >= expires:
                await _terminate(client, contract, "Expired", "the demand expired")
            elif not contract.live and now >= idle_since + NO_ACTIVITY_S:
                await _terminate(client, contract, "NoActivity", f"no activity for {NO_ACTIVITY_S:.0f} s")
            else:
                until = expires if contract.live else min(expires, idle_since + NO_ACTIVITY_S)
                with anyio.move_on_after(until - now):
                    await news.wait()
        # The node ends the activities of an ended agreement; their billing tasks issue the last notes and return.
        await _learn(client, contract)
        bill_new_ones()
    await _invoice(client, contract)


async def _learn(client: NodeClient, contract: Contract) -> None:
    """What the node knows of the agreement: its activities, and what was claimed for them."""
    for activity in await again(client.node.activities)():
        if activity["agreementId"] == contract.id and activity["role"] == "provider":
            contract.seen.add(activity["activityId"])
            if activity["state"] == "Terminated":
                contract.live.discard(activity["activityId"])
            else:
                contract.live.add(activity["activityId"])
    learns_pace = contract.payable_from is None and contract.payment_timeout_s is not None
    if learns_pace or contract.seen - set(contract.billed):
        last_payable = contract.agreement.approved_date or contract.agreement.timestamp
        for note in await again(client.payment.debit_notes)():
            if note.agreement_id == contract.id:
                amount = parse_amount(note.total_amount_due)
                contract.billed[note.activity_id] = max(amount, contract.billed.get(note.activity_id, Amount(0)))
                if note.payment_due_date is not None:
                    last_payable = max(last_payable, note.timestamp)
        if learns_pace and contract.payment_timeout_s is not None:
            since_s = time.time() - last_payable.timestamp()
            contract.payable_from = anyio.current_time() - since_s + contract.payment_timeout_s


async def _bill_activity(client: NodeClient, contract: Contract, activity: str) -> None:
    interval_s = note_interval_s(contract, contract.seconds(NOTE_INTERVAL, 120.0))
    accept_s = contract.seconds(ACCEPT_TIMEOUT, 240.0)
    pending: list[Pending] = []
    next_note = anyio.current_time() + interval_s
    while activity in contract.live and not contract.ended:
        until = min([next_note, *(p.accept_by for p in pending)])
        with anyio.move_on_after(max(0.0, until - anyio.current_time())):
            while activity in contract.live and not contract.ended:
                await contract.news.wait()
        if activity not in contract.live or contract.ended:
            break
        if anyio.current_time() >= next_note:
            next_note = anyio.current_time() + interval_s
            if note := await _note(client, contract, activity, may_be_payable=not uses_channel(contract)):
                now = anyio.current_time()
                pay_by = None if note.due_in_s is None else now + note.due_in_s + PAYMENT_GRACE_S
                pending.append(Pending(note.id, now + accept_s, pay_by))
        if overdue := await _overdue(client, pending):
            await _terminate(client, contract, *overdue)
    with anyio.move_on_after(END_WAIT_S):
        await _wait_ended(client, contract, activity)
    await _note(client, contract, activity)
    contract.final[activity] = contract.billed.get(activity, Amount(0))
    contract.destroyed(activity)


async def _watch_exposure(client: NodeClient, contract: Contract) -> None:
    """Mode channel: end the agreement before more of it is unvouched than was agreed."""
    exposure = Exposure.of(
        contract,
        interval_s=contract.seconds(NOTE_INTERVAL, 120.0),
        accept_s=contract.seconds(ACCEPT_TIMEOUT, 240.0),
    )
    while not contract.ended:
        news = contract.news
        if contract.live and (reason := await exposure.exceeded(client)):
            await _terminate(client, contract, *reason)
            return
        with anyio.move_on_after(limits.EXPOSURE_CHECK_S):
            await news.wait()


async def _wait_ended(client: NodeClient, contract: Contract, activity: str) -> None:
    """Its usage is final only once it has ended."""
    while True:
        news = contract.news
        if (await again(client.activity.state)(activity))["state"][0] == "Terminated":
            return
        with anyio.move_on_after(STATE_CHECK_S):
            await news.wait()


@dataclass(frozen=True)
class Sent:
    id: str
    due_in_s: float | None


async def _note(client: NodeClient, contract: Contract, activity: str, *, may_be_payable: bool = False) -> Sent | None:
    """Issue and send a debit note over the usage so far. The last one is not payable: the invoice follows at once."""
    timeout_s, now = contract.payment_timeout_s, anyio.current_time()
    payable = may_be_payable and timeout_s is not None and now >= (contract.payable_from or now)
    due_in_s = timeout_s if payable else None
    try:
        usage = await again(client.activity.usage)(activity)
        # Usage is stored every few seconds: after a restart it may be less than what a note said before.
        amount = max(cost_of(contract.agreement.offer.properties, usage), contract.billed.get(activity, Amount(0)))
        contract.billed[activity] = amount
        note = await again(client.payment.issue_debit_note)(
            activity,
            agreement=contract.id,
            amount=format_amount(amount),
            usage=usage,
            due_at=None if due_in_s is None else time.time() + due_in_s,
        )
        await again(client.payment.send)("debitNote", note.debit_note_id)
    except GolemError as exc:
        log.warning("debit_note_failed", agreement=contract.id, activity=activity, error=str(exc))
        return None
    if due_in_s is not None:
        contract.payable_from = now + due_in_s
    log.info(
        "debit_note_sent", agreement=contract.id, activity=activity, amount=note.total_amount_due, due_in_s=due_in_s
    )
    return Sent(note.debit_note_id, due_in_s)


async def _overdue(client: NodeClient, pending: list[Pending]) -> tuple[str, str] | None:
    """Why the agreement is broken (code, message), if a note was refused or is late; done ones leave ``pending``."""
    now = anyio.current_time()
    for entry in list(pending):
        status = (await again(client.payment.debit_note)(entry.note)).status
        deadline = entry.deadline(status)
        if status == "REJECTED":
            return "DebitNoteRejected", f"debit note {entry.note} was rejected"
        if deadline is None:
            pending.remove(entry)
        elif now >= deadline:
            if status == "ACCEPTED":
                return "DebitNoteNotPaid", f"debit note {entry.note} was not paid in time"
            return "DebitNotesDeadline", f"debit note {entry.note} was not accepted in time"
        elif status == "ACCEPTED":
            pending[pending.index(entry)] = replace(entry, accept_by=deadline)
    return None


async def _terminate(client: NodeClient, contract: Contract, code: str, message: str) -> None:
    try:
        await again(client.market.terminate)(contract.id, {"message": message, "golem.provider.code": code})
        log.info("agreement_terminated", agreement=contract.id, code=code)
    except GolemError as exc:  # it is final already, or unknown: in both cases nothing more will happen under it
        log.info("agreement_not_terminated", agreement=contract.id, code=code, error=str(exc))
    contract.end()


async def give_up(client: NodeClient, contract: Contract) -> None:
    """End an agreement that we cannot bill."""
    await _terminate(client, contract, "ProviderError", "the provider agent failed")


def invoice_id_of(agreement: str) -> str:
    """The same for the same agreement: issuing twice (a restart in between) is harmless."""
    return str(uuid.uuid5(_NAMESPACE, agreement))


async def _invoice(client: NodeClient, contract: Contract) -> None:
    """Always, also over nothing: clients wait for it without limit."""
    document = invoice_id_of(contract.id)
    amount = format_amount(sum(contract.final.values()))
    try:
        await again(client.payment.issue_invoice)(
            contract.id,
            activities=sorted(contract.final),
            amount=amount,
            due_at=time.time() + contract.seconds(PAYMENT_TIMEOUT, 120.0),
            document=document,
        )
    except ConflictError as exc:  # of a former life; it stands as it is
        log.info("invoiced_before", agreement=contract.id, error=str(exc))
    await again(client.payment.send)("invoice", document)
    log.info("invoice_sent", agreement=contract.id, amount=amount)
