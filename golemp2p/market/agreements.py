"""Agreements: made of a provider's proposal, signed by both, ended by either. Stored before anything is answered."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.agreement import AGREEMENT, AGREEMENT_STRUCT, Agreement, AgreementEvent, AgreementState, Role
from golemp2p.core.eip712 import Domain, digest
from golemp2p.core.ids import AgreementId, PeerId, ProposalId, new_agreement_id
from golemp2p.core.peer import address_of, public_key_of, recover
from golemp2p.core.proposal import Proposal, ProposalState
from golemp2p.errors import (
    ConflictError,
    DeadlineError,
    GolemError,
    GoneError,
    NotFoundError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.identity import Signer
from golemp2p.market.delivery import Delivery
from golemp2p.market.events import Notifier
from golemp2p.market.negotiation import Negotiation
from golemp2p.market.subscriptions import AgreementReceived, Subscriptions
from golemp2p.net.rpc import Rpc
from golemp2p.storage import Storage
from golemp2p.storage import market as rows
from golemp2p.wire.p2p.market import PROTOCOL, AgreementBody, ApproveBody, EndBody

log = structlog.get_logger("golemp2p.market")

_S = AgreementState
_OPEN: Final = [_S.PROPOSAL, _S.PENDING, _S.APPROVED]
SWEEP_INTERVAL_S: Final = 1.0
CACHE_ENDED: Final = 1_000


class AgreementListener(Protocol):
    def __call__(self, agreement: Agreement) -> None:
        """The agreement's state changed; already stored. Must not block."""


def make_content(
    demand_id: str, requestor: PeerId, demand: Proposal, offer_id: str, provider: PeerId, offer: Proposal
) -> bytes:
    """The exact bytes that both sides sign: who, and the final pair of terms."""

    def side(proposal: Proposal, kind: str, subscription: str, role: str, peer: PeerId) -> dict[str, Any]:
        return {
            f"{kind}Id": subscription,
            f"{role}Id": address_of(peer),
            "properties": proposal.terms.properties,
            "constraints": proposal.terms.constraints,
            "timestamp": round(proposal.timestamp * 1000),
        }

    document = {
        "demand": side(demand, "demand", demand_id, "requestor", requestor),
        "offer": side(offer, "offer", offer_id, "provider", provider),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def signature_ok(agreement: Agreement, domain: Domain, signature: bytes, signer: PeerId) -> bool:
    try:
        return recover(digest(domain, AGREEMENT_STRUCT, agreement.signed_message()), signature) == public_key_of(signer)
    except RemoteProtocolError:
        return False


class Agreements:
    def __init__(
        self,
        storage: Storage,
        signer: Signer,
        domain: Domain,
        rpc: Rpc,
        negotiation: Negotiation,
        subscriptions: Subscriptions,
        delivery: Delivery,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._domain = domain
        self._rpc = rpc
        self._negotiation = negotiation
        self._subscriptions = subscriptions
        self._delivery = delivery
        self._clock = clock
        self._known: dict[AgreementId, Agreement] = {}  # all open ones and the latest ended
        self._started = clock()
        self._locks: dict[AgreementId, tuple[trio.Lock, list[None]]] = {}  # with one entry for each who uses it
        self._approving: dict[AgreementId, tuple[float, float]] = {}  # not before this moment, and the wait so far
        self._proposal_of: dict[AgreementId, Proposal] = {}  # made, not confirmed yet
        # Awaited before the requestor signs; what it raises keeps the agreement from being confirmed (node.py sets it).
        self.before_confirm: Callable[[Agreement], Awaitable[None]] | None = None
        self._confirmed: dict[AgreementId, float] = {}  # when; those of a former life count from our start
        self._listeners: list[AgreementListener] = []
        self._news = Notifier()
        self._storing: set[AgreementId] = set()
        self._stored = trio.Event()  # set, and replaced, when one of them is done

    def add_listener(self, listener: AgreementListener) -> None:
        self._listeners.append(listener)

    async def load(self) -> None:
        for agreement in await self._storage.run(lambda c: rows.list_agreements(c, _OPEN)):
            self._known[agreement.id] = agreement

    async def get(self, agreement_id: AgreementId) -> Agreement:
        """Raises NotFoundError. From memory for all that are open."""
        found = self._known.get(agreement_id)
        if found is None:
            found = await self._storage.run(lambda c: rows.get_agreement(c, agreement_id))
        if found is None:
            raise NotFoundError(f"agreement {agreement_id} is unknown")
        return found

    def partners(self) -> set[PeerId]:
        """Peers of agreements that may come about or go on, ourselves included."""
        open_ones = [a for a in self._known.values() if a.state in (_S.PENDING, _S.APPROVED)]
        return {peer for a in open_ones for peer in (a.provider, a.requestor)}

    def approved(self, role: Role) -> list[Agreement]:
        """Those in which we are ``role`` and that go on."""
        return [a for a in self._known.values() if a.state is _S.APPROVED and a.role is role]

    async def all(self, states: Sequence[AgreementState] | None = None) -> Sequence[Agreement]:
        return await self._storage.run(lambda c: rows.list_agreements(c, states))

    # --- requestor ---

    async def create(self, proposal_id: ProposalId, valid_to: float) -> AgreementId:
        """Make an agreement of the provider's proposal.

        Raises UsageError (not the provider's draft), ConflictError (made already), NotFoundError, GoneError.
        """
        theirs = self._negotiation.find(proposal_id)
        if theirs.ours or theirs.previous is None or not theirs.id.startswith("R-"):
            raise UsageError(
                f"proposal {proposal_id} is no answer of a provider", hint="counter the initial proposal first"
            )
        if theirs.state is ProposalState.ACCEPTED:
            raise ConflictError(f"proposal {proposal_id} is an agreement already")
        if theirs.state is not ProposalState.DRAFT:
            raise UsageError(f"proposal {proposal_id} is {theirs.state.shown} and cannot become an agreement")
        now = self._clock()
        if not now < valid_to <= now + limits.MAX_AGREEMENT_LIFE_S:
            raise UsageError("validTo is in the past, or more than ten years away")
        ours = self._negotiation.find(theirs.previous)
        content = make_content(theirs.subscription, self._signer.peer_id, ours, theirs.counterpart, theirs.peer, theirs)
        agreement = rows.agreement_from_parts(
            Role.REQUESTOR,
            new_agreement_id(),
            content,
            requestor=self._signer.peer_id,
            provider=theirs.peer,
            created_at=round(now, 3),
            valid_to=round(valid_to, 3),
            state=_S.PROPOSAL,
        )
        _require_own_accounts(agreement)
        self._negotiation.mark_accepted(theirs)
        self._proposal_of[agreement.id] = theirs
        try:
            await self._store(agreement)
        except GolemError:
            del self._proposal_of[agreement.id]
            self._negotiation.reopen(theirs)
            raise
        return agreement.id

    async def confirm(self, agreement_id: AgreementId, session_id: str | None) -> None:
        """Sign and send to the provider. Raises GoneError (not a proposal any more), NetworkError, and what
        ``before_confirm`` raises."""
        if self.before_confirm is not None:
            agreement = await self.get(agreement_id)
            if agreement.role is Role.REQUESTOR and agreement.state is _S.PROPOSAL:
                await self.before_confirm(agreement)
        async with self._locked(agreement_id):
            agreement = await self.get(agreement_id)
            if agreement.role is not Role.REQUESTOR:
                raise UsageError("only the requestor confirms an agreement")
            if agreement.state is not _S.PROPOSAL:
                raise GoneError(f"agreement {agreement_id} is {agreement.state.value}, not Proposal")
            proposal = self._proposal_of.get(agreement_id)
            if proposal is None:
                raise GoneError(f"agreement {agreement_id} was never sent and the node restarted since")
            signature = self._signer.sign(digest(self._domain, AGREEMENT_STRUCT, agreement.signed_message()))
            agreement = self._after(agreement, AgreementEvent.CONFIRM)
            agreement = replace(agreement, requestor_signature=signature, session_id=session_id)
            await self._store(agreement)
            self._proposal_of.pop(agreement_id, None)
            self._confirmed[agreement_id] = self._clock()
        body = AgreementBody(
            id=agreement.id,
            proposal=proposal.key,
            content=agreement.content,
            created_at=round(agreement.created_at * 1000),
            valid_to=round(agreement.valid_to * 1000),
            signature=signature,
        )
        try:
            await self._rpc.call(
                agreement.provider, PROTOCOL, "agree", body.to_wire(), timeout_s=limits.MARKET_RPC_TIMEOUT_S
            )
        except GolemError as exc:
            self._negotiation.outcomes.failed(agreement.offer_id, exc)
            reason = {"message": f"the provider did not take the agreement: {exc.message}"}
            try:  # a UsageError says that the provider stored nothing; after any other error it may have
                await self._end(agreement_id, AgreementEvent.CANCEL, reason, tell=not isinstance(exc, UsageError))
            except GoneError:  # its answer was faster than its acknowledgement
                if (await self.get(agreement_id)).state in (_S.APPROVED, _S.REJECTED):
                    return
            raise

    async def cancel(self, agreement_id: AgreementId, reason: Mapping[str, object]) -> None:
        agreement = await self.get(agreement_id)
        if agreement.role is not Role.REQUESTOR:
            raise UsageError("only the requestor cancels an agreement")
        await self._end(agreement_id, AgreementEvent.CANCEL, reason, tell=True)

    async def wait_approved(self, agreement_id: AgreementId, timeout_s: float) -> None:
        """Returns when approved. Raises GoneError (Rejected, Cancelled, Expired), UsageError, DeadlineError."""

        async def settled() -> list[Agreement]:
            agreement = await self.get(agreement_id)
            return [] if agreement.state is _S.PENDING else [agreement]

        found = await self._news.poll(settled, timeout_s)
        if not found:
            raise DeadlineError(f"agreement {agreement_id} is still waiting for the provider")
        match found[0].state:
            case _S.APPROVED:
                return
            case _S.REJECTED | _S.CANCELLED | _S.EXPIRED:
                raise GoneError(found[0].state.value)
            case _S.PROPOSAL:
                raise UsageError(f"agreement {agreement_id} is not confirmed")
            case _:
                raise UsageError(f"agreement {agreement_id} is {found[0].state.value}")

    # --- provider ---

    async def approve(self, agreement_id: AgreementId, timeout_s: float, session_id: str | None = None) -> None:
        """Counter-sign and bring the signature to the requestor. ``session_id``: of the provider's agent.

        Our signature is stored before it is sent. Approved is what the requestor acknowledged: it may have cancelled
        in the meantime. Raises GoneError, DeadlineError (still being delivered).
        """
        async with self._locked(agreement_id):
            agreement = await self.get(agreement_id)
            if agreement.role is not Role.PROVIDER:
                raise UsageError("only the provider approves an agreement")
            if agreement.state is _S.APPROVED:
                return
            if agreement.state is not _S.PENDING:
                raise GoneError(f"agreement {agreement_id} is {agreement.state.value}")
            if not agreement.provider_signature:
                signature = self._signer.sign(digest(self._domain, AGREEMENT_STRUCT, agreement.signed_message()))
                agreement = replace(agreement, provider_signature=signature, session_id=session_id)
                await self._store(agreement)
        await self._deliver_approval(agreement, timeout_s)

    async def _deliver_approval(self, agreement: Agreement, timeout_s: float) -> None:
        """Raises DeadlineError (:meth:`run` tries again), GoneError (the requestor has given up)."""
        body = ApproveBody(id=agreement.id, signature=agreement.provider_signature).to_wire()
        _, wait_s = self._approving.get(agreement.id, (0.0, limits.APPROVAL_RETRY_S / 2))
        wait_s = min(2 * wait_s, limits.APPROVAL_RETRY_MAX_S)
        self._approving[agreement.id] = (self._clock() + timeout_s + wait_s, wait_s)
        try:
            await self._rpc.call(agreement.requestor, PROTOCOL, "approve", body, timeout_s=timeout_s)
        except (GoneError, NotFoundError) as exc:
            self._approving.pop(agreement.id, None)
            by = {"message": exc.message}
            with contextlib.suppress(GoneError):  # its own word about that was faster
                await self._end(agreement.id, AgreementEvent.CANCEL, by, tell=False, by_peer=True)
            raise GoneError(f"the requestor no longer wants agreement {agreement.id}: {exc.message}") from exc
        except GolemError as exc:  # unreachable, busy, in trouble: it may have our approval or not
            self._approving[agreement.id] = (self._clock() + wait_s, wait_s)
            raise DeadlineError(f"the approval has not reached the requestor yet: {exc.message}") from exc
        self._approving.pop(agreement.id, None)
        await self._approved(agreement.id)

    async def reject(self, agreement_id: AgreementId, reason: Mapping[str, object]) -> None:
        agreement = await self.get(agreement_id)
        if agreement.role is not Role.PROVIDER:
            raise UsageError("only the provider rejects an agreement")
        await self._end(agreement_id, AgreementEvent.REJECT, reason, tell=True)

    async def usable(self, agreement_id: AgreementId) -> Agreement:
        """The agreement, for who is about to act on it (payments, activities). Raises NotFoundError.

        A requestor that uses an agreement which we signed has our approval, even if its acknowledgement was lost.
        """
        agreement = await self.get(agreement_id)
        if agreement.state is _S.PENDING and agreement.role is Role.PROVIDER and agreement.provider_signature:
            with contextlib.suppress(GoneError):
                await self._approved(agreement_id)
            agreement = await self.get(agreement_id)
        return agreement

    # --- either ---

    async def terminate(self, agreement_id: AgreementId, reason: Mapping[str, object]) -> None:
        """A local, final fact, delivered until acknowledged. Raises GoneError (final already), ConflictError."""
        agreement = await self.get(agreement_id)
        if agreement.state is _S.PROPOSAL:
            raise ConflictError(f"agreement {agreement_id} is still a Proposal", hint="cancel it")
        await self._end(agreement_id, AgreementEvent.TERMINATE, reason, tell=True)

    async def events(
        self, after_us: int, session_id: str | None, timeout_s: float, max_events: int
    ) -> list[rows.AgreementNews]:
        """Strictly newer than ``after_us`` (microseconds since the epoch), ascending."""

        async def fetch() -> list[rows.AgreementNews]:
            found = await self._storage.run(lambda c: rows.agreement_events_after(c, after_us, session_id, max_events))
            # On disk is a moment before in memory; who reads of an event must find the agreement in its new state.
            while any(news.agreement_id in self._storing for news in found):
                await self._stored.wait()
            return found

        return await self._news.poll(fetch, timeout_s, question=(after_us, session_id))

    def verify(self, agreement: Agreement) -> dict[str, bool]:
        """Both signatures, from the stored bytes alone."""
        return {
            "requestor": signature_ok(agreement, self._domain, agreement.requestor_signature, agreement.requestor),
            "provider": signature_ok(agreement, self._domain, agreement.provider_signature, agreement.provider),
        }

    # --- what peers do ---

    async def on_agree(self, peer: PeerId, raw: dict[str, Any]) -> object:
        body = AgreementBody.model_validate(raw)
        async with self._locked(AgreementId(body.id)):
            return await self._take(peer, body)

    async def _take(self, peer: PeerId, body: AgreementBody) -> object:
        with contextlib.suppress(NotFoundError):
            known = await self.get(AgreementId(body.id))
            if known.requestor == peer and known.content == body.content:
                return {}  # sent again
            raise ConflictError(f"there is another agreement {body.id}")
        offer = self._negotiation.find_key(body.proposal, peer)
        if not offer.ours or offer.previous is None or offer.state is not ProposalState.DRAFT:
            raise UsageError(f"proposal {body.proposal} is {offer.state.shown} and cannot become an agreement")
        own = self._subscriptions.find(offer.subscription)
        if own is None:
            raise GoneError(f"offer {offer.subscription} is withdrawn")
        demand = self._negotiation.find(offer.previous)
        expected = make_content(offer.counterpart, peer, demand, offer.subscription, self._signer.peer_id, offer)
        if not _same_terms(expected, body.content):
            raise RemoteProtocolError("the agreement differs from what was negotiated")
        agreement = rows.agreement_from_parts(
            Role.PROVIDER,
            body.id,
            body.content,
            requestor=peer,
            provider=self._signer.peer_id,
            created_at=body.created_at / 1000,
            valid_to=body.valid_to / 1000,
            state=_S.PENDING,
            requestor_signature=body.signature,
        )
        if not signature_ok(agreement, self._domain, body.signature, peer):
            raise RemoteProtocolError("the agreement is not signed by the requestor")
        now = self._clock()
        if not now < agreement.valid_to <= now + limits.MAX_AGREEMENT_LIFE_S:
            raise UsageError("the agreement's validTo is in the past, or more than ten years away")
        if agreement.created_at > now + limits.MAX_CLOCK_SKEW_S:
            raise UsageError("the agreement is made in the future; the clocks differ too much")
        _require_own_accounts(agreement)
        self._negotiation.mark_accepted(offer)
        try:
            await self._store(agreement)
        except GolemError:
            self._negotiation.reopen(offer)
            raise
        own.events.put(AgreementReceived(agreement, self._clock()))
        return {}

    async def on_approve(self, peer: PeerId, raw: dict[str, Any]) -> object:
        body = ApproveBody.model_validate(raw)
        agreement = await self._of_peer(body.id, peer)
        if agreement.role is not Role.REQUESTOR:
            raise RemoteProtocolError("only the provider approves")
        if not signature_ok(agreement, self._domain, body.signature, peer):
            raise RemoteProtocolError("the approval is not signed by the provider")
        if agreement.provider_signature == body.signature:
            return {}  # sent again; it may even have been terminated since
        await self._approved(agreement.id, body.signature)
        self._negotiation.outcomes.succeeded(agreement.offer_id)
        return {}

    async def on_reject(self, peer: PeerId, raw: dict[str, Any]) -> object:
        return await self._on_end(peer, raw, AgreementEvent.REJECT, Role.REQUESTOR)

    async def on_cancel(self, peer: PeerId, raw: dict[str, Any]) -> object:
        return await self._on_end(peer, raw, AgreementEvent.CANCEL, Role.PROVIDER)

    async def on_terminate(self, peer: PeerId, raw: dict[str, Any]) -> object:
        return await self._on_end(peer, raw, AgreementEvent.TERMINATE, None)

    async def _on_end(self, peer: PeerId, raw: dict[str, Any], event: AgreementEvent, our_role: Role | None) -> object:
        body = EndBody.model_validate(raw)
        agreement = await self._of_peer(body.id, peer)
        if our_role not in (None, agreement.role):
            raise RemoteProtocolError(f"{event.value} is not for the sender to say")
        if event is AgreementEvent.TERMINATE and agreement.state is _S.PENDING and agreement.provider_signature:
            await self._approved(agreement.id)
        try:
            await self._end(agreement.id, event, body.reason, tell=False, by_peer=True)
        except GoneError:
            log.debug("ended_before", agreement=agreement.id)  # both ended it at once: each side's end is final
        return {}

    async def _of_peer(self, agreement_id: str, peer: PeerId) -> Agreement:
        agreement = await self.get(AgreementId(agreement_id))
        if agreement.counterpart != peer:
            raise NotFoundError(f"agreement {agreement_id} is unknown")
        return agreement

    # --- transitions ---

    def _after(self, agreement: Agreement, event: AgreementEvent) -> Agreement:
        return replace(agreement, state=AGREEMENT.next(agreement.state, event))

    async def _approved(self, agreement_id: AgreementId, provider_signature: bytes | None = None) -> None:
        async with self._locked(agreement_id):
            agreement = await self.get(agreement_id)
            if agreement.state is _S.APPROVED:
                return
            if agreement.state is not _S.PENDING:
                raise GoneError(f"agreement {agreement_id} is {agreement.state.value}")
            agreement = replace(
                self._after(agreement, AgreementEvent.APPROVE),
                approved_at=self._clock(),
                provider_signature=provider_signature or agreement.provider_signature,
            )
            await self._store(agreement, "AgreementApprovedEvent")
            self._confirmed.pop(agreement_id, None)

    async def _end(
        self,
        agreement_id: AgreementId,
        event: AgreementEvent,
        reason: Mapping[str, object],
        *,
        tell: bool,
        by_peer: bool = False,
    ) -> None:
        async with self._locked(agreement_id):
            agreement = await self.get(agreement_id)
            if not AGREEMENT.can(agreement.state, event):
                raise GoneError(f"agreement {agreement_id} is {agreement.state.value}")
            if event is AgreementEvent.REJECT and agreement.provider_signature:
                raise GoneError(f"agreement {agreement_id} is signed already and cannot be rejected")
            requestor_did = (agreement.role is Role.REQUESTOR) is not by_peer
            terminator = "Requestor" if requestor_did else "Provider"
            was_sent = agreement.state is not _S.PROPOSAL
            agreement = replace(
                self._after(agreement, event), ended_at=self._clock(), end_reason=dict(reason), terminator=terminator
            )
            told = {
                AgreementEvent.TERMINATE: "terminate",
                AgreementEvent.REJECT: "reject_agreement",
                AgreementEvent.CANCEL: "cancel",
            }.get(event)
            body = EndBody(id=agreement_id, reason=dict(reason)).to_wire()
            word = (told, body) if tell and was_sent and told else None
            await self._store(agreement, f"Agreement{agreement.state.value}Event", reason, terminator, word)
            self._proposal_of.pop(agreement_id, None)
            self._approving.pop(agreement_id, None)
            self._confirmed.pop(agreement_id, None)
        if agreement.role is Role.REQUESTOR:
            if event is AgreementEvent.REJECT:
                self._negotiation.outcomes.refused(agreement.offer_id, reason)
            self._negotiation.start_over(agreement.demand_id, agreement.offer_id)

    async def _store(
        self,
        agreement: Agreement,
        event: str | None = None,
        reason: Mapping[str, object] | None = None,
        terminator: str | None = None,
        word: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """One transaction: the state, its event, and what the peer must hear. Memory follows the disk."""

        now = self._clock()

        def job(connection: Connection) -> None:
            rows.put_agreement(connection, agreement)
            if event is not None:
                rows.add_agreement_event(connection, now, agreement, event, reason, terminator)
            if word is not None:
                self._delivery.add(connection, agreement.counterpart, word[0], agreement.id, word[1], now)

        # A caller that gives up between disk and memory would leave the two apart.
        self._storing.add(agreement.id)
        try:
            with trio.CancelScope(shield=True):
                await self._storage.run(job)
            self._known[agreement.id] = agreement
        finally:
            self._storing.discard(agreement.id)
            self._stored.set()
            self._stored = trio.Event()
        self._trim()
        if word is not None:
            self._delivery.kick()
        log.info("agreement_state", agreement=agreement.id, state=agreement.state.value, peer=agreement.counterpart)
        self._news.notify()
        for listener in self._listeners:
            listener(agreement)

    @contextlib.asynccontextmanager
    async def _locked(self, agreement_id: AgreementId) -> AsyncIterator[None]:
        """One at a time for each agreement; the lock lives as long as somebody uses it."""
        lock, users = self._locks.setdefault(agreement_id, (trio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[agreement_id]

    def _trim(self) -> None:
        ended = [a.id for a in self._known.values() if a.state not in _OPEN]
        for agreement_id in ended[: max(0, len(ended) - CACHE_ENDED)]:
            del self._known[agreement_id]

    async def run(self) -> None:
        """Expire what nobody approved in time; carry on with approvals that a former life began."""
        async with trio.open_nursery() as nursery:
            while True:
                stored = self._stored
                await self._sweep(nursery)
                if any(agreement.state in (_S.PROPOSAL, _S.PENDING) for agreement in self._known.values()):
                    await trio.sleep(SWEEP_INTERVAL_S)
                else:  # an idle node sleeps
                    await stored.wait()

    async def _sweep(self, nursery: trio.Nursery) -> None:
        now = self._clock()
        for agreement in list(self._known.values()):
            if agreement.state not in (_S.PROPOSAL, _S.PENDING):
                continue
            with contextlib.suppress(GoneError):  # somebody was faster
                if agreement.valid_to <= now:
                    await self._end(agreement.id, AgreementEvent.EXPIRE, {"message": "validTo passed"}, tell=False)
                elif agreement.state is _S.PROPOSAL:
                    continue
                elif agreement.role is Role.REQUESTOR:
                    if now - self._confirmed.get(agreement.id, self._started) > limits.AGREEMENT_APPROVE_TIMEOUT_S:
                        reason = {"message": "the provider did not answer"}
                        self._negotiation.outcomes.failed(agreement.offer_id, DeadlineError(reason["message"]))
                        await self._end(agreement.id, AgreementEvent.CANCEL, reason, tell=True)
                elif agreement.provider_signature and self._approving.get(agreement.id, (0.0, 0.0))[0] <= now:
                    nursery.start_soon(self._approve_again, agreement)

    async def _approve_again(self, agreement: Agreement) -> None:
        """Nobody waits for this one: its caller has had a deadline error, or was a former life of the node."""
        try:
            await self._deliver_approval(agreement, limits.MARKET_RPC_TIMEOUT_S)
        except GolemError as exc:
            log.info("approval_undelivered", agreement=agreement.id, error=exc.message)


def _require_own_accounts(agreement: Agreement) -> None:
    """Who signs is who pays and who is paid: nobody names a third party as payer or payee. Raises UsageError."""
    platform = agreement.payment_platform
    if platform is None:
        return
    name = f"golem.com.payment.platform.{platform}.address"
    for side, properties, address in (
        ("requestor", agreement.demand, agreement.requestor_address),
        ("provider", agreement.offer, agreement.provider_address),
    ):
        found = properties.get(name)
        if not isinstance(found, str) or found.lower() != address:
            raise UsageError(f"{name} of the {side} is {str(found)[:80]!r}, not its own address {address}")


def _same_terms(expected: bytes, content: bytes) -> bool:
    """Equal but for the timestamps, which each side took from its own clock. 0, 0.0 and false are three things."""

    def terms(document: bytes) -> str:
        # As UTF-8: the parser would take UTF-16 too, and whoever writes the agreement down could not.
        sides = json.loads(document.decode(), object_pairs_hook=_no_duplicates)
        for side in ("demand", "offer"):
            if type(sides[side].pop("timestamp")) is not int:
                raise TypeError("a timestamp is a whole number of milliseconds")
        return json.dumps(sides, sort_keys=True, allow_nan=False)

    try:
        return terms(expected) == terms(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values with one name readers would take different ones."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)
