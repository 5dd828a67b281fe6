"""The auditor: do agreement, notes, acceptances and payments of an exported journal fit together?

Pure: lines in, findings out; no node, no network, no clock. Nothing in the file is believed but what is signed, and the
chain of hashes: the terms come from the agreement that both signed, a bill counts when the provider signed it, an
acceptance when the requestor did and it is of these very words. What nobody signs (rejections, what the chain showed)
must at least agree with the rest. A finding is a fact with the number of its entry, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain, Struct, Value, digest
from golemp2p.core.ids import ActivityId, Address
from golemp2p.core.money import ZERO, Amount, format_amount, linear_cost
from golemp2p.core.payment.auditchannels import CLAIM_FIELDS, VOUCHER_FIELDS, ChannelChecker
from golemp2p.core.payment.auditfile import ChainChecker, parse_entry, parse_header
from golemp2p.core.payment.auditreport import Account, Finding, Report
from golemp2p.core.payment.auditterms import SignedAgreement, read_agreement
from golemp2p.core.payment.documents import (
    ACCEPTANCE_STRUCT,
    DEBIT_NOTE_STRUCT,
    INVOICE_STRUCT,
    PAYMENT_NOTICE_STRUCT,
    parse_usage,
)
from golemp2p.core.payment.journal import Entry, EntryKind, message_of
from golemp2p.core.payment.ledger import Ledger
from golemp2p.core.payment.machines import Side
from golemp2p.core.payment.policy import exceeds
from golemp2p.core.payment.vouchers import CHANNEL, mode_of
from golemp2p.core.peer import recover_address
from golemp2p.errors import GolemError, RemoteProtocolError, UsageError


@dataclass
class _Document:
    """``amount`` and what else its entry says; dead: rejected or never sent."""

    struct: Struct
    message: dict[str, Value]
    digest: bytes
    entry: int
    dead: bool = False
    accepted: bool = False

    @property
    def is_note(self) -> bool:
        return self.struct is DEBIT_NOTE_STRUCT

    @property
    def amount(self) -> Amount:
        return _amount(self.message["totalAmountDue" if self.is_note else "amount"])

    @property
    def activity(self) -> ActivityId:
        return ActivityId(str(self.message["activityId"]))


@dataclass
class _Book:
    """One agreement from one side."""

    terms: SignedAgreement
    side: Side
    ledger: Ledger = field(default_factory=Ledger)
    documents: dict[str, _Document] = field(default_factory=dict)
    notes: dict[ActivityId, list[_Document]] = field(default_factory=dict)  # of each activity, oldest first
    platform: str = ""
    last_payment: int = 0  # its entry
    vouched: Amount = ZERO
    claimed: Amount = ZERO  # the part of what is paid that came through channels
    last_voucher: int = 0  # its entry

    def last_note(self, activity: ActivityId) -> _Document | None:
        return next((note for note in reversed(self.notes.get(activity, [])) if not note.dead), None)

    def invoice(self) -> _Document | None:
        return next((d for d in self.documents.values() if not d.is_note and not d.dead), None)


@dataclass
class _Notice:
    message: dict[str, Value]
    shares: list[tuple[_Book, Amount]]
    decided: bool = False


class Auditor:
    """Give it the lines of a file, in order; then :meth:`report`. Raises RemoteProtocolError for a wrong first line."""

    def __init__(self, first_line: str) -> None:
        self.header = parse_header(first_line)
        self._chain = ChainChecker(self.header)
        self._entries = 0
        self._findings: list[Finding] = []
        self._findings_total = 0
        self._agreements: dict[str, SignedAgreement] = {}
        self._books: dict[tuple[str, Side], _Book] = {}
        self._notices: dict[tuple[str, Side], _Notice] = {}
        self._events: set[tuple[int, str, int]] = set()  # chain, transaction, log index: once ever
        self._chains: dict[str, int] = {}  # of each platform
        self._channels = ChannelChecker()
        self._checks: Final[Mapping[str, Callable[[Entry, dict[str, Any]], None]]] = {
            EntryKind.AGREEMENT: self._agreement,
            EntryKind.DEBIT_NOTE: self._bill,
            EntryKind.INVOICE: self._bill,
            EntryKind.CANCELLATION: self._cancellation,
            EntryKind.ACCEPTANCE: self._acceptance,
            EntryKind.REJECTION: self._rejection,
            EntryKind.PAYMENT_NOTICE: self._notice,
            EntryKind.PAYMENT: self._payment,
            EntryKind.PAYMENT_REFUSED: self._refused,
            EntryKind.VOUCHER: self._voucher,
            EntryKind.CLAIM: self._claim,
        }

    def add(self, line: str) -> None:
        """The next line after the header."""
        self._entries += 1
        try:
            entry, body, stated = parse_entry(line)
        except GolemError as exc:
            self._chain.skip()
            self._find(0, "", f"line {self._entries + 1} is no entry: {exc.message}")
            return
        if problem := self._chain.add(entry, stated):
            self._find(entry.seq, entry.agreement_id, problem)
        check = self._checks.get(entry.kind)
        if check is None:
            return
        try:
            check(entry, body)
        except GolemError as exc:
            self._find(entry.seq, entry.agreement_id, exc.message)

    def report(self) -> Report:
        for problem in self._chain.end():
            self._find(0, "", problem)
        for book in self._books.values():
            self._close(book)
        accounts = tuple(self._account(book) for book in self._books.values())
        return Report(self.header, self._entries, accounts, tuple(self._findings), self._findings_total)

    def _find(self, entry: int, agreement_id: str, reason: str) -> None:
        self._findings_total += 1
        if len(self._findings) < limits.MAX_AUDIT_FINDINGS:
            self._findings.append(Finding(entry, agreement_id, reason))

    # --- one kind of entry each: raises what is wrong -------------------------------------------------------------

    def _agreement(self, entry: Entry, body: dict[str, Any]) -> None:
        found = read_agreement(body)
        _require(found.id == entry.agreement_id, "the entry is about another agreement")
        _require(found.id not in self._agreements, "the agreement was written down before")
        _require(
            self.header.node in (found.agreement.requestor, found.agreement.provider), "the node has no part in it"
        )
        self._agreements[found.id] = found

    def _book(self, agreement_id: str, body: Mapping[str, Any]) -> _Book:
        side = _side(body)
        if agreement_id not in self._agreements:
            raise RemoteProtocolError(f"agreement {agreement_id!r:.80} is not in the journal before it")
        terms = self._agreements[agreement_id]
        mine = terms.agreement.requestor if side is Side.PAYER else terms.agreement.provider
        _require(mine == self.header.node, f"the node is not the agreement's {side}")
        return self._books.setdefault((agreement_id, side), _Book(terms, side))

    def _bill(self, entry: Entry, body: dict[str, Any]) -> None:
        struct = DEBIT_NOTE_STRUCT if entry.kind == EntryKind.DEBIT_NOTE else INVOICE_STRUCT
        message = _signed(struct, body)
        book = self._book(entry.agreement_id, body)
        noun = "debit note" if struct is DEBIT_NOTE_STRUCT else "invoice"
        _check_parties(book, message, noun)
        _check_signature(book.terms.domain, struct, message, body, book.terms.payee, f"the {noun}", "provider")
        document = _Document(struct, message, digest(book.terms.domain, struct, message), entry.seq)
        _require(str(message["id"]) not in book.documents, f"the {noun} was written down before")
        if document.is_note:
            parse_usage(str(message["usage"]))
            self._check_note(book, document)
            book.notes.setdefault(document.activity, []).append(document)
        else:
            _require(book.invoice() is None, "the agreement has an invoice already")
            book.ledger.accept_invoice(document.amount)
        book.documents[str(message["id"])] = document
        book.platform = str(message["platform"])

    @staticmethod
    def _check_note(book: _Book, note: _Document) -> None:
        last = book.last_note(note.activity)
        if last is not None and note.amount < last.amount:
            raise RemoteProtocolError(
                f"the debit note claims {format_amount(note.amount)}, less than entry {last.entry}"
                f" of the same activity ({format_amount(last.amount)}): totals never go down"
            )
        previous = str(note.message["previousId"])
        if book.side is Side.PAYEE and previous != ("" if last is None else last.message["id"]):
            raise RemoteProtocolError("the debit note does not name the one before it")

    def _document(self, entry: Entry, body: Mapping[str, Any], document_id: object) -> tuple[_Book, _Document]:
        book = self._book(entry.agreement_id, body)
        document = book.documents.get(str(document_id))
        if document is None:
            raise RemoteProtocolError(f"document {document_id!r:.80} is not in the journal before it")
        return book, document

    def _cancellation(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, "side", "documentId")
        book, document = self._document(entry, body, body["documentId"])
        _require(book.side is Side.PAYEE and not document.accepted, "only an unsent document can be cancelled")
        document.dead = True

    def _rejection(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, "side", "documentId", "code", "message")
        _, document = self._document(entry, body, body["documentId"])
        _require(not document.accepted, "the document was accepted before it was rejected")
        document.dead = True

    def _acceptance(self, entry: Entry, body: dict[str, Any]) -> None:
        message = _signed(ACCEPTANCE_STRUCT, body)
        book, document = self._document(entry, body, message["documentId"])
        terms = book.terms
        _check_parties(book, message, "acceptance")
        _check_signature(terms.domain, ACCEPTANCE_STRUCT, message, body, terms.payer, "the acceptance", "requestor")
        _require(
            message["document"] == document.digest, f"the acceptance is of other words than entry {document.entry}"
        )
        _require(
            message["amount"] == document.amount and message["platform"] == document.message["platform"],
            f"the acceptance is of another amount or platform than entry {document.entry}",
        )
        document.dead = False
        document.accepted = True
        if document.is_note:
            # Through a channel every note is paid when it is accepted.
            payable = document.message["dueAt"] != 0 or mode_of(terms.agreement.demand) == CHANNEL
            book.ledger = book.ledger.accept_note(document.activity, document.amount, payable=payable)
            _check_price(terms.agreement, document, [document], f"entry {document.entry}")
        else:
            book.ledger = book.ledger.accept_invoice(document.amount)

    def _notice(self, entry: Entry, body: dict[str, Any]) -> None:
        message = _signed(PAYMENT_NOTICE_STRUCT, body)
        ids, amounts = _texts(message["agreementIds"]), [_whole(text) for text in _texts(message["amounts"])]
        _require(
            len(ids) == len(amounts) == len(set(ids)) > 0, "the notice does not give one amount for each agreement"
        )
        _require(sum(amounts) == message["amount"], "the shares do not add up to the notice's amount")
        _require(entry.agreement_id in ("", *ids), "the entry is about another agreement")
        narrowed = self.header.agreement_id  # a file about one agreement does not tell of the others
        _require(narrowed in ("", *ids), "the file is about another agreement")
        shares = [
            (self._book(one, body), Amount(amount))
            for one, amount in zip(ids, amounts, strict=True)
            if narrowed in ("", one)
        ]
        for book, _ in shares:
            _check_parties(book, message, "notice", agreement=False)
        terms = shares[0][0].terms
        _check_signature(terms.domain, PAYMENT_NOTICE_STRUCT, message, body, terms.payer, "the notice", "requestor")
        key = (str(message["id"]), _side(body))
        _require(key not in self._notices, "the notice was written down before")
        self._notices[key] = _Notice(message, shares)

    def _open_notice(self, body: Mapping[str, Any]) -> _Notice:
        notice = self._notices.get((str(body["noticeId"]), _side(body)))
        if notice is None:
            raise RemoteProtocolError(f"payment notice {body['noticeId']!r:.80} is not in the journal before it")
        _require(not notice.decided, "the payment notice was decided on before")
        _require(
            body["transaction"] == "0x" + _bytes(notice.message["transaction"]).hex(),
            "the transaction is another than the notice's",
        )
        notice.decided = True
        return notice

    def _refused(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, "side", "noticeId", "transaction", "reason")
        self._open_notice(body)

    def _payment(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, "side", "noticeId", "chainId", "transaction", "blockNumber", "blockHash", "legs")
        notice = self._open_notice(body)
        platform = str(notice.message["platform"])
        _require(type(body["chainId"]) is int, "chainId is no number")
        _require(
            self._chains.setdefault(platform, body["chainId"]) == body["chainId"],
            f"platform {platform} was on chain {self._chains[platform]} before",
        )
        if _side(body) is Side.PAYEE:
            self._check_legs(notice, body)
        for book, amount in notice.shares:
            book.ledger = book.ledger.credit(amount)
            book.last_payment = entry.seq
        for book, _ in notice.shares:
            if book.side is Side.PAYER and book.ledger.paid > book.ledger.payable:
                raise RemoteProtocolError(
                    f"{format_amount(book.ledger.paid)} is paid under agreement {book.terms.id},"
                    f" of which {format_amount(book.ledger.payable)} was accepted for payment"
                )

    def _check_legs(self, notice: _Notice, body: Mapping[str, Any]) -> None:
        legs = body["legs"]
        _require(isinstance(legs, list) and len(legs) > 0, "no transfer on the chain bears the payment out")
        total, tokens = 0, set()
        for leg in legs:
            if not isinstance(leg, dict):
                raise RemoteProtocolError("a leg is no object")
            _fields(leg, "logIndex", "token", "from", "to", "amount")
            _require(leg["to"] == notice.message["payee"], "a transfer goes to somebody else")
            event = (body["chainId"], str(body["transaction"]), leg["logIndex"])
            _require(event not in self._events, "a transfer has paid for something else before")
            self._events.add(event)
            tokens.add(leg["token"])
            total += _whole(leg["amount"])
        _require(len(tokens) == 1, "the transfers are of several tokens")
        _require(total == notice.message["amount"], "the transfers do not add up to the notice's amount")

    def _voucher(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, *VOUCHER_FIELDS)
        book = self._book(entry.agreement_id, body)
        terms = book.terms
        _require(mode_of(terms.agreement.demand) == CHANNEL, "the agreement is not paid through a channel")
        grown = self._channels.voucher(book.side, body, terms.id, terms.payer, terms.payee)
        book.vouched = Amount(book.vouched + grown)
        book.last_voucher = entry.seq

    def _claim(self, entry: Entry, body: dict[str, Any]) -> None:
        _fields(body, *CLAIM_FIELDS)
        side = _side(body)
        for agreement_id, amount in self._channels.claim(side, body, self.header.agreement_id).items():
            book = self._book(agreement_id, body)
            book.ledger = book.ledger.credit(amount)
            book.claimed = Amount(book.claimed + amount)
            book.last_payment = entry.seq

    # --- at the end -----------------------------------------------------------------------------------------------

    def _close(self, book: _Book) -> None:
        """What can only be judged when all is known: the order of arrival is nobody's fault."""
        invoice = book.invoice()
        if invoice is not None and invoice.accepted:
            notes = [note for activity in book.notes if (note := book.last_note(activity)) is not None]
            try:
                _check_price(book.terms.agreement, invoice, notes, "the last notes")
            except GolemError as exc:
                self._find(invoice.entry, book.terms.id, exc.message)
        if book.side is Side.PAYEE and book.ledger.paid > book.ledger.accepted:
            paid, accepted = format_amount(book.ledger.paid), format_amount(book.ledger.accepted)
            self._find(book.last_payment, book.terms.id, f"{paid} was paid, of which {accepted} was accepted")

        promised = book.vouched + book.ledger.paid - book.claimed
        if book.side is Side.PAYER and book.vouched and promised > book.ledger.accepted:
            vouched, accepted = format_amount(book.vouched), format_amount(book.ledger.accepted)
            self._find(
                book.last_voucher or book.last_payment,
                book.terms.id,
                f"vouchers of {vouched} and payments are more than was accepted ({accepted})",
            )

    @staticmethod
    def _account(book: _Book) -> Account:
        invoice = book.invoice()
        last = [note.amount for activity in book.notes if (note := book.last_note(activity)) is not None]
        return Account(
            agreement_id=book.terms.id,
            side=book.side,
            counterpart=book.terms.payee if book.side is Side.PAYER else book.terms.payer,
            platform=book.platform,
            documents=len(book.documents),
            billed=invoice.amount if invoice is not None else Amount(sum(last)),
            accepted=book.ledger.accepted,
            paid=book.ledger.paid,
            vouched=book.vouched,
        )


def audit(lines: Iterable[str]) -> Report:
    """Of a whole file. Raises RemoteProtocolError when its first line is no header."""
    iterator = iter(lines)
    auditor = Auditor(next(iterator, ""))
    for line in iterator:
        auditor.add(line)
    return auditor.report()


def _check_price(agreement: Agreement, bill: _Document, notes: Iterable[_Document], where: str) -> None:
    """What was accepted is not above the agreed price of the usage that ``notes`` report. Raises."""
    if bill.amount == ZERO:
        return
    try:
        usages = [parse_usage(str(note.message["usage"])) for note in notes]
        price = sum(linear_cost(agreement.price_coeffs, usage) for usage in usages)
    except UsageError as exc:
        raise RemoteProtocolError(f"the price of {where} cannot be checked: {exc.message}") from exc
    if exceeds(bill.amount, price):
        raise RemoteProtocolError(
            f"{format_amount(bill.amount)} was accepted, more than the agreed price of the usage that {where} report"
            f" ({format_amount(price)})"
        )


def _check_parties(book: _Book, message: Mapping[str, Value], noun: str, *, agreement: bool = True) -> None:
    terms = book.terms
    if agreement:
        _require(message["agreementId"] == terms.id, f"the {noun} is about another agreement")
    _require(
        message["payer"] == terms.payer and message["payee"] == terms.payee,
        f"the {noun}'s payer or payee is not the agreement's",
    )
    _require(str(message["platform"]) in terms.platforms, f"the {noun}'s platform is not the agreed one")


def _signed(struct: Struct, body: dict[str, Any]) -> dict[str, Value]:
    _fields(body, "side", "message", "signature")
    return message_of(struct, body["message"])


def _check_signature(
    domain: Domain,
    struct: Struct,
    message: Mapping[str, Value],
    body: Mapping[str, Any],
    signer: Address,
    what: str,
    whose: str,
) -> None:
    try:
        signature = bytes.fromhex(body["signature"])
        if (
            signature.hex() == body["signature"]
            and recover_address(digest(domain, struct, message), signature) == signer
        ):
            return
    except (ValueError, TypeError, RemoteProtocolError):
        pass  # however malformed, it is not the one that it should be
    raise RemoteProtocolError(f"{what} is not signed by the {whose}: something in it was changed")


def _fields(body: Mapping[str, Any], *names: str) -> None:
    if set(body) != set(names):
        raise RemoteProtocolError(f"the body has the fields {', '.join(names)} and no others")


def _side(body: Mapping[str, Any]) -> Side:
    try:
        return Side(body["side"])
    except (KeyError, ValueError) as exc:
        raise RemoteProtocolError("side is neither payer nor payee") from exc


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise RemoteProtocolError(reason)


def _whole(text: object) -> int:
    _require(isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 80, "an amount is malformed")
    return int(str(text))


def _amount(value: Value) -> Amount:
    assert isinstance(value, int)
    return Amount(value)


def _texts(value: Value) -> list[str]:
    assert isinstance(value, list)
    return value


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value


__all__ = ["Account", "Auditor", "Finding", "Report", "audit"]
