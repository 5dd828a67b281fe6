"""A whole exchange of documents between two fixed keys, as both nodes' journals have it. Pure and deterministic:
tests, fuzz and `scripts/make-vectors` use the same one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from golemp2p.core.agreement import AGREEMENT_STRUCT, Agreement, AgreementState, Role
from golemp2p.core.eip712 import Domain, digest
from golemp2p.core.ids import ActivityId, Address, AgreementId, DocumentId, SubscriptionId
from golemp2p.core.money import Amount, parse_amount
from golemp2p.core.payment import Acceptance, Document, DocumentKind, Leg, PaymentNotice, Side
from golemp2p.core.payment import journal as bodies
from golemp2p.core.payment.audit import Report, audit
from golemp2p.core.payment.auditfile import Header, list_hash
from golemp2p.core.payment.journal import GENESIS, Entry, EntryKind, canonical
from golemp2p.core.payment.vouchers import MODE, MODES, ChannelConfig, VoucherDomain
from golemp2p.core.properties import Properties
from golemp2p.core.records import subscription_id_of
from golemp2p.identity.keys import NodeKey

DOMAIN = Domain("golemp2p-vectors", 31337)
START_MS = 1_800_000_000_000
PLATFORM = "erc20-local-tglm"
TOKEN = Address("0x" + "70" * 20)
COEFFS = [0.001, 0.002, 0.5]  # per second, per CPU second, start
AGREEMENT = AgreementId("ab" * 32)
ACTIVITY = ActivityId("cd" * 16)
OTHER_ACTIVITY = ActivityId("ef" * 16)
HOT_KEY = NodeKey(bytes([3]) * 32)  # of the payer, for vouchers alone
VOUCHERS = VoucherDomain(31337, Address("0x" + "c0" * 20))
TRANSACTION = "0x" + "5e" * 32


def glm(text: str) -> Amount:
    return parse_amount(text)


def fixed_key(byte: int) -> NodeKey:
    return NodeKey(bytes([byte]) * 32)


def make_signed_agreement(
    requestor: NodeKey,
    provider: NodeKey,
    agreement_id: str = AGREEMENT,
    *,
    domain: Domain = DOMAIN,
    platform: str = PLATFORM,
    began_ms: int = START_MS,
    mode: str = "batch",
) -> Agreement:
    """As the requestor's node sees it, with ids, content and signatures as the market makes them."""
    address = f"golem.com.payment.platform.{platform}.address"
    demand: Properties = {address: requestor.address, "golem.com.payment.chosen-platform": platform}
    offer: Properties = {
        address: provider.address,
        "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
        "golem.com.pricing.model.linear.coeffs": list(COEFFS),
        "golem.inf.cpu.threads": 2,
    }
    if mode != "batch":
        demand[MODE] = mode
        offer[MODES] = ["batch", mode]
    demand_id = SubscriptionId(subscription_id_of(requestor.peer_id, b"d" * 16))
    offer_id = SubscriptionId(subscription_id_of(provider.peer_id, b"o" * 16))

    def side(kind: str, subscription: str, role: str, key: NodeKey, properties: Properties) -> dict[str, object]:
        names = {f"{kind}Id": subscription, f"{role}Id": key.address}
        return {**names, "properties": properties, "constraints": "()", "timestamp": began_ms}

    content = {
        "demand": side("demand", demand_id, "requestor", requestor, demand),
        "offer": side("offer", offer_id, "provider", provider, offer),
    }
    agreement = Agreement(
        id=AgreementId(agreement_id),
        role=Role.REQUESTOR,
        requestor=requestor.peer_id,
        provider=provider.peer_id,
        demand_id=demand_id,
        offer_id=offer_id,
        demand=demand,
        offer=offer,
        demand_constraints="()",
        offer_constraints="()",
        content=json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
        created_at=began_ms / 1000,
        valid_to=began_ms / 1000 + 3600,
        state=AgreementState.APPROVED,
        approved_at=began_ms / 1000,
        session_id="session-1",
    )
    signed = digest(domain, AGREEMENT_STRUCT, agreement.signed_message())
    return replace(agreement, requestor_signature=requestor.sign(signed), provider_signature=provider.sign(signed))


@dataclass
class Journal:
    """One node's."""

    key: NodeKey
    entries: list[Entry] = field(default_factory=list)
    agreement_id: str = ""  # what it is narrowed to

    def append(self, kind: str, body: dict[str, object], agreement_id: str) -> None:
        seq = len(self.entries) + 1
        previous = self.entries[-1].hash if self.entries else GENESIS
        self.entries.append(Entry(seq, START_MS + 1000 * seq, kind, agreement_id, canonical(body), previous))

    def rewritten(self, place: int, body: dict[str, object] | None) -> Journal:
        """Another body for one entry (None: without it) in a journal that is chained anew: the node's own lie."""
        forged = Journal(self.key, agreement_id=self.agreement_id)
        for number, entry in enumerate(self.entries):
            if number != place:
                forged.append(entry.kind, json.loads(entry.body), entry.agreement_id)
            elif body is not None:
                forged.append(entry.kind, body, entry.agreement_id)
        return forged

    @property
    def lines(self) -> list[str]:
        head = (self.entries[-1].seq, self.entries[-1].hash) if self.entries else (0, GENESIS)
        header = Header(
            DOMAIN,
            self.key.peer_id,
            self.agreement_id,
            len(self.entries),
            list_hash(entry.hash for entry in self.entries),
            *head,
            START_MS + 3_600_000,
        )
        header = replace(header, signature=self.key.sign(header.digest()))
        return [header.line, *(entry.line for entry in self.entries)]

    def audit(self) -> Report:
        return audit(self.lines)


@dataclass
class Exchange:
    """Writes each fact into the journals of both sides, signed by whom it has to be."""

    payer: Journal = field(default_factory=lambda: Journal(fixed_key(1)))
    payee: Journal = field(default_factory=lambda: Journal(fixed_key(2)))
    documents: dict[str, Document] = field(default_factory=dict)

    def both(self) -> list[tuple[Journal, Side]]:
        return [(self.payer, Side.PAYER), (self.payee, Side.PAYEE)]

    def agree(self, agreement_id: str = AGREEMENT, *, mode: str = "batch") -> None:
        agreement = make_signed_agreement(self.payer.key, self.payee.key, agreement_id, mode=mode)
        body = bodies.agreement_body(agreement, DOMAIN)
        for journal, _ in self.both():
            journal.append(EntryKind.AGREEMENT, body, agreement_id)

    def bill(self, document: Document) -> Document:
        signature = self.payee.key.sign(document.digest(DOMAIN))
        self.documents[document.id] = document
        for journal, side in self.both():
            journal.append(document.kind.value, bodies.document_body(side, document, signature), document.agreement_id)
        return document

    def note(
        self,
        document_id: str,
        total: str,
        *,
        usage: str,
        previous: str = "",
        payable: bool = False,
        activity: ActivityId = ACTIVITY,
        agreement_id: str = AGREEMENT,
    ) -> Document:
        return self.bill(
            Document(
                kind=DocumentKind.DEBIT_NOTE,
                id=DocumentId(document_id),
                agreement_id=AgreementId(agreement_id),
                activity_ids=(activity,),
                payer=self.payer.key.address,
                payee=self.payee.key.address,
                platform=PLATFORM,
                amount=glm(total),
                issued_at_ms=START_MS + 120_000,
                due_at_ms=START_MS + 3_600_000 if payable else 0,
                usage=usage,
                previous_id=previous,
            )
        )

    def invoice(self, document_id: str, amount: str, *, agreement_id: str = AGREEMENT) -> Document:
        return self.bill(
            Document(
                kind=DocumentKind.INVOICE,
                id=DocumentId(document_id),
                agreement_id=AgreementId(agreement_id),
                activity_ids=(ACTIVITY,),
                payer=self.payer.key.address,
                payee=self.payee.key.address,
                platform=PLATFORM,
                amount=glm(amount),
                issued_at_ms=START_MS + 600_000,
                due_at_ms=START_MS + 600_000,
            )
        )

    def accept(self, document: Document) -> Acceptance:
        acceptance = Acceptance(document, START_MS + 700_000)
        signature = self.payer.key.sign(acceptance.digest(DOMAIN))
        for journal, side in self.both():
            body = bodies.acceptance_body(side, acceptance, DOMAIN, signature)
            journal.append(EntryKind.ACCEPTANCE, body, document.agreement_id)
        return acceptance

    def reject(self, document: Document) -> None:
        for journal, side in self.both():
            body = bodies.rejection_body(side, document, "INCORRECT_AMOUNT", "more than agreed")
            journal.append(EntryKind.REJECTION, body, document.agreement_id)

    def pay(
        self, notice_id: str, shares: dict[str, str], *, transaction: str = TRANSACTION, log_index: int = 3
    ) -> None:
        notice = PaymentNotice(
            id=notice_id,
            payer=self.payer.key.address,
            payee=self.payee.key.address,
            platform=PLATFORM,
            transaction=transaction,
            shares=tuple((AgreementId(agreement), glm(amount)) for agreement, amount in shares.items()),
            document_ids=tuple(DocumentId(d.id) for d in self.documents.values() if d.agreement_id in shares),
            paid_at_ms=START_MS + 800_000,
        )
        signature = self.payer.key.sign(notice.digest(DOMAIN))
        leg = Leg(log_index, TOKEN, notice.payer, notice.payee, notice.amount)
        about = next(iter(shares)) if len(shares) == 1 else ""
        for journal, side in self.both():
            journal.append(EntryKind.PAYMENT_NOTICE, bodies.notice_body(side, notice, signature), about)
            body = bodies.payment_body(
                side,
                notice.id,
                chain_id=DOMAIN.chain_id,
                transaction=transaction,
                block_number=7,
                block_hash="0x" + "b7" * 32,
                legs=(leg,) if side is Side.PAYEE else (),
            )
            journal.append(EntryKind.PAYMENT, body, about)

    def vouch(self, cumulative: str, total: str, *, agreement_id: str = AGREEMENT) -> None:
        """A voucher over ``cumulative`` in all, ``total`` of it for the agreement."""
        config = self.channel
        digest_ = VOUCHERS.digest(config.id, glm(cumulative))
        for journal, side in self.both():
            body: dict[str, object] = {
                "side": side.value,
                "chainId": VOUCHERS.chain_id,
                "contract": VOUCHERS.contract,
                "payer": config.payer,
                "payee": config.payee,
                "signer": config.signer,
                "grace": config.grace_s,
                "salt": "0x" + config.salt.hex(),
                "channelId": "0x" + config.id.hex(),
                "cumulative": str(glm(cumulative)),
                "agreementTotal": str(glm(total)),
                "signature": HOT_KEY.sign(digest_).hex(),
            }
            journal.append(EntryKind.VOUCHER, body, agreement_id)

    def claim(self, paid: str, claimed: str, shares: dict[str, str]) -> None:
        for journal, side in self.both():
            body: dict[str, object] = {
                "side": side.value,
                "channelId": "0x" + self.channel.id.hex(),
                "chainId": VOUCHERS.chain_id,
                "transaction": TRANSACTION,
                "blockNumber": 8,
                "blockHash": "0x" + "b8" * 32,
                "paid": str(glm(paid)),
                "claimed": str(glm(claimed)),
                "agreements": [[agreement, str(glm(amount))] for agreement, amount in shares.items()],
            }
            journal.append(EntryKind.CLAIM, body, next(iter(shares)) if len(shares) == 1 else "")

    def closed(self, shares: dict[str, str]) -> None:
        """By the payer: what of its vouchers can never be claimed."""
        body: dict[str, object] = {
            "side": Side.PAYER.value,
            "channelId": "0x" + self.channel.id.hex(),
            "chainId": VOUCHERS.chain_id,
            "agreements": [[agreement, str(glm(amount))] for agreement, amount in shares.items()],
        }
        self.payer.append(EntryKind.CHANNEL_CLOSED, body, next(iter(shares)) if len(shares) == 1 else "")

    @property
    def channel(self) -> ChannelConfig:
        return ChannelConfig(self.payer.key.address, self.payee.key.address, HOT_KEY.address, 86_400, b"s" * 32)


def full_exchange() -> Exchange:
    """Notes of two activities, one of them rejected, a payable one, an invoice, a payment in two transactions."""
    exchange = Exchange()
    exchange.agree()
    first = exchange.note("n1", "0.6", usage="[100.0, 0.0]", payable=True)
    exchange.accept(first)
    exchange.pay("p1", {AGREEMENT: "0.6"})
    dear = exchange.note("n2", "9", usage="[200.0, 50.0]", previous="n1")
    exchange.reject(dear)
    last = exchange.note("n3", "0.8", usage="[200.0, 50.0]", previous="n1")
    exchange.accept(last)
    exchange.accept(exchange.note("m1", "0.55", usage="[50.0, 0.0]", activity=OTHER_ACTIVITY))
    exchange.accept(exchange.invoice("i1", "1.35"))
    exchange.pay("p2", {AGREEMENT: "0.75"}, transaction="0x" + "6f" * 32)
    return exchange


def channel_exchange() -> Exchange:
    """Two agreements of one pair, paid by vouchers of one channel and by two claims."""
    exchange = Exchange()
    other = "0c" * 32
    exchange.agree(mode="channel")
    exchange.agree(other, mode="channel")
    exchange.vouch("0.6", "0.6")
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    exchange.vouch("1.1", "0.5", agreement_id=other)
    exchange.accept(exchange.note("n2", "0.5", usage="[0.0, 0.0]", agreement_id=other))
    exchange.claim("0.8", "0.8", {AGREEMENT: "0.6", other: "0.2"})
    exchange.vouch("1.2", "0.7")
    exchange.accept(exchange.note("n3", "0.7", usage="[200.0, 0.0]", previous="n1"))
    exchange.accept(exchange.invoice("i1", "0.7"))
    exchange.claim("0.4", "1.2", {other: "0.3", AGREEMENT: "0.1"})
    return exchange
