"""Safety properties of a simulated world, and what must come true once faults have stopped.

Looked at: every state of an agreement when it is stored; every transfer when a block has it; every acknowledgement of
results when it is sent; the books of each node that wrote since the last look, every LOOK_S and at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
import trio

from golemp2p import limits
from golemp2p.core.agreement import Agreement, AgreementState
from golemp2p.core.ids import ActivityId, Address, BatchId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import Leg, Side
from golemp2p.core.records import MarketRecord, verify_record
from golemp2p.errors import GolemError, RemoteProtocolError
from golemp2p.sim import bills
from golemp2p.sim.shortcuts import was_verified
from golemp2p.storage import payment as repo

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode
    from golemp2p.sim.world import World

LOOK_S: Final = 5.0
SYNC_BOUND_S: Final = 300.0  # two sides of an agreement, alive and connected, agree on its end within it
SETTLED_S: Final = 120.0  # between honest nodes, from a bill to the news that it is paid, when nothing is wrong
MAX_PROBLEMS: Final = 100
MAX_DISK_BYTES: Final = 2 * limits.MIB  # of a node beside what its agreements need
DISK_BYTES_PER_AGREEMENT: Final = 256 * 1024
_FINAL: Final = frozenset(
    {AgreementState.CANCELLED, AgreementState.REJECTED, AgreementState.EXPIRED, AgreementState.TERMINATED}
)


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self.problems: list[str] = []
        self._told: set[str] = set()
        self._states: dict[str, dict[str, tuple[AgreementState, float, int]]] = defaultdict(dict)
        self._paid: Counter[tuple[Address, Address]] = Counter()  # on the chain
        self._looked_s = 0.0
        self._tasks: dict[int, set[str]] = defaultdict(set)
        world.log.add_listener(self._on_event)

    def report(self, rule: str, what: str) -> None:
        """Once for each."""
        text = f"{rule}: {what}"
        if text not in self._told and len(self.problems) < MAX_PROBLEMS:
            self._told.add(text)
            self.problems.append(f"{text} (at {trio.current_time():.0f} s)")
            self._world.log.add(-1, "problem", rule)

    # --- events -----------------------------------------------------------------------------------------------------

    def _on_event(self, _at_s: float, node: int, event: str, details: tuple[object, ...]) -> None:
        if event == "task":
            self._tasks[node].add(str(details[0]))

    def on_agreement(self, node: SimNode, agreement: Agreement) -> None:
        sides = self._states[agreement.id]
        sides[agreement.role.value] = (agreement.state, trio.current_time(), node.index)
        if agreement.state is AgreementState.APPROVED and not all(node.market.agreements.verify(agreement).values()):  # type: ignore[union-attr] # it has just told us of it
            self.report("approved without both signatures", f"agreement {agreement.id[:16]} at n{node.index}")

    def on_record(self, node: SimNode, record: MarketRecord) -> None:
        """It is in the node's book now: its issuer has signed it."""
        domain = self._world.domain
        if record.issuer == node.key.peer_id or was_verified(record, domain):
            return
        try:
            verify_record(record, domain, now=record.issued_at)
        except RemoteProtocolError as exc:
            self.report("a forged record was taken", f"n{node.index}: {exc.message}")

    def on_leg(self, leg: Leg) -> None:
        self._paid[leg.sender, leg.recipient] += leg.amount

    def on_ack(self, node: SimNode, body: Mapping[str, Any]) -> None:
        """What a requestor acknowledges, its provider may forget: it must have it."""
        service = node.opened_activity
        mirror = None if service is None else service.requestor.activity(ActivityId(body["activity_id"]))
        if mirror is None:
            self.report("result lost after acknowledgement", f"n{node.index} knows no activity {body['activity_id']}")
            return
        try:
            has = mirror.batch(BatchId(body["batch_id"])).next_seq
        except GolemError:
            has = 0
        if has < body["next_seq"]:
            self.report("result lost after acknowledgement", f"n{node.index} has {has} of {body['next_seq']} events")

    # --- looks ------------------------------------------------------------------------------------------------------

    def look(self, *, thorough: bool = False) -> None:
        now = trio.current_time()
        if now < self._looked_s + LOOK_S and not thorough:
            return
        self._looked_s = now
        for node in self._world.nodes:
            if node.disk.was_used and (node.disk.is_dirty or thorough):
                node.disk.is_dirty = False
                self._look_at_books(node)
            if node.market is not None:
                self._look_at_memory(node)
        self._look_at_agreements(now)

    def _look_at_books(self, node: SimNode) -> None:
        if not node.has_payments:
            return
        name = f"n{node.index}"
        address = node.key.address
        promised = node.disk.read(bills.promised)
        believed: Counter[tuple[Address, Address]] = Counter()
        for side, payer, payee, _accepted, paid in node.disk.read(_ledgers):
            if side != Side.PAYER.value:
                believed[payer, payee] += paid
        spent = 0
        for (payer, payee), amount in self._paid.items():
            if payer != address:
                continue
            spent += amount
            if amount > promised[payer, payee]:
                self.report(
                    "paid twice or too much",
                    f"{name} paid {format_amount(amount)} to {payee[:10]},"
                    f" accepted {format_amount(Amount(promised[payer, payee]))}",
                )
        for pair, amount in believed.items():
            if amount > self._paid[pair]:
                self.report(
                    "paid less than agreed",
                    f"{name} booked {format_amount(amount)} from {pair[0][:10]},"
                    f" the chain has {format_amount(self._paid[pair])}",
                )
        allocations = node.disk.read(lambda c: repo.find_allocations(c))
        if spent > sum(allocation.total for allocation in allocations):
            self.report("paid above the allocation", f"{name} paid {format_amount(Amount(spent))} in all")
        for allocation in allocations:
            used = allocation.spent + allocation.reserved
            if used > allocation.total:
                self.report(
                    "paid above the allocation",
                    f"{name} used {format_amount(used)} of {format_amount(allocation.total)}",
                )

    def _look_at_memory(self, node: SimNode) -> None:
        market = node.market
        assert market is not None
        if len(market.book) > limits.MAX_RECORDS:
            self.report("state without bound", f"n{node.index} knows {len(market.book)} records")
        if market.book.n_bytes > limits.MAX_BOOK_BYTES:
            self.report("state without bound", f"n{node.index}'s book has {market.book.n_bytes} bytes")

    def _look_at_disk(self, node: SimNode) -> None:
        most = MAX_DISK_BYTES + DISK_BYTES_PER_AGREEMENT * node.agreements_seen
        if node.disk.n_bytes > most:
            self.report(
                "state without bound", f"n{node.index} has {node.disk.n_bytes} bytes on disk, {most} are expected"
            )

    def _look_at_agreements(self, now: float) -> None:
        for agreement_id, sides in self._states.items():
            if len(sides) < 2:
                continue
            (one, one_s, one_node), (two, two_s, two_node) = sides.values()
            if one is two or one not in _FINAL or two not in _FINAL:
                continue
            if now - max(one_s, two_s) > SYNC_BOUND_S:
                what = f"agreement {agreement_id[:16]} is {one.value} at n{one_node}, {two.value} at n{two_node}"
                self.report("two final states", what)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def at_the_end(self) -> None:
        """Liveness, and what the scenario expects. Faults have stopped quiet_s ago."""
        world = self._world
        expect = world.scenario.expect
        self.look(thorough=True)
        quiet = trio.current_time() >= world.scenario.until_s
        for node in world.nodes:
            if node.disk.was_used:
                self._look_at_disk(node)
            lost = self._tasks[node.index] - set(_results(node))
            if lost:
                self.report("result lost after acknowledgement", f"n{node.index} lost {sorted(lost)[:3]}")
            if quiet and expect.paid and node.role == "requestor" and node.alive and node.has_payments:
                self._all_is_paid(node)
            if quiet and expect.settled and node.role == "provider" and node.alive and node.has_payments:
                self._all_is_settled(node)
        if quiet:
            self._one_end()
            self._expectations()

    def _all_is_paid(self, node: SimNode) -> None:
        for side, _payer, payee, accepted, paid in node.disk.read(_ledgers):
            if side == Side.PAYER.value and paid < accepted:
                self.report(
                    "accepted and not paid",
                    f"n{node.index} owes {payee[:10]} {format_amount(accepted - paid)} of {format_amount(accepted)}",
                )

    def _all_is_settled(self, node: SimNode) -> None:
        """An honest provider's bill to an honest requestor has come, was accepted, paid, and both know it."""
        world = self._world
        honest = {r.key.address: r for r in _honest_requestors(world) if r.alive}
        before_ms = round((node.clock() - SETTLED_S) * 1000)
        for stored in node.disk.read(lambda c: bills.open_invoices(c, before_ms=before_ms)):
            requestor = honest.get(stored.document.payer)
            if requestor is not None:
                self.report(
                    "billed and not settled",
                    f"n{node.index}'s invoice of {format_amount(stored.document.amount)} to n{requestor.index}"
                    f" is {stored.state.value}",
                )

    def _one_end(self) -> None:
        """An agreement that ended on one side has ended on the other, when both could talk for long enough."""
        now = trio.current_time()
        for agreement_id, sides in self._states.items():
            ended = [(s, at_s, n) for s, at_s, n in sides.values() if s in _FINAL]
            going = [(s, at_s, n) for s, at_s, n in sides.values() if s not in _FINAL]
            alive = all(self._world.nodes[n].alive for _, _, n in sides.values())
            if ended and going and alive and now - ended[0][1] > SYNC_BOUND_S:
                self.report(
                    "ended on one side only",
                    f"agreement {agreement_id[:16]} is {ended[0][0].value} at n{ended[0][2]},"
                    f" {going[0][0].value} at n{going[0][2]}",
                )

    def _expectations(self) -> None:
        world = self._world
        expect = world.scenario.expect
        if expect.tasks_done:
            wanted = sum(node.agent.tasks for node in _honest_requestors(world))  # type: ignore[attr-defined] # they are Requestors
            done = sum(len(_results(node)) for node in _honest_requestors(world))
            if done < expect.tasks_done * wanted:
                self.report("expected tasks", f"{done} of {wanted} are done, {expect.tasks_done:.0%} were expected")
        if expect.offers_known:
            honest = [n for n in world.nodes if n.alive and n.role in ("provider", "requestor")]
            knowing = sum(world.measures.known_share(n) >= 0.99 for n in honest)
            if knowing < expect.offers_known * len(honest):
                self.report("expected offers", f"{knowing} of {len(honest)} nodes know the live offers")
        if expect.honest_offers_known:
            offers = [o for o, index in world.measures.issuers.items() if world.nodes[index].role == "provider"]
            live = [o for o in offers if o in world.measures.live_offers]
            for node in _honest_requestors(world):
                if node.alive and (share := world.measures.known_share(node, live)) < expect.honest_offers_known:
                    self.report("expected offers", f"n{node.index} knows {share:.0%} of the honest offers")
        if expect.propagation_p99_s is not None and world.measures.latency(0.99) > expect.propagation_p99_s:
            self.report("expected propagation", f"99 % within {world.measures.latency(0.99):.2f} s")


def _honest_requestors(world: World) -> Iterator[SimNode]:
    return (node for node in world.nodes if node.role == "requestor")


def _results(node: SimNode) -> dict[str, str]:
    found = node.memo.get("results")
    return found if isinstance(found, dict) else {}


def _ledgers(connection: sa.Connection) -> list[tuple[str, Address, Address, int, int]]:
    c = repo.ledgers.c
    rows = connection.execute(sa.select(c.side, c.payer, c.payee, c.accepted, c.paid))
    return [(r.side, Address(r.payer), Address(r.payee), int(r.accepted), int(r.paid)) for r in rows]
