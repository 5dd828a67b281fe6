"""The auditor: do agreement, notes, acceptances and payments of an exported journal fit together?

Pure: lines in, findings out; no node, no network, no clock. Nothing in the file is believed but what is signed, and the
chain of hashes: the terms come from the agreement that both signed, a bill counts when the provider signed it, an
acceptance when the requestor did and it is of these very words. What nobody signs (rejections, what the chain showed)
must at least agree with the rest. A finding is a fact with the number of its entry, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from golemp2p import limits
from golemp2p.core.eip712 import digest
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment.auditbooks import (
    Book,
    Document,
    Notice,
    bytes_of,
    check_parties,
    check_price,
    check_signature,
    require,
    require_fields,
    side_of,
    signed,
    texts_of,
    whole,
)
from golemp2p.core.payment.auditchannels import CLAIM_FIELDS, CLOSED_FIELDS, VOUCHER_FIELDS, ChannelChecker
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
from golemp2p.core.payment.journal import Entry, EntryKind
from golemp2p.core.payment.machines import Side
from golemp2p.core.payment.vouchers import CHANNEL, mode_of
from golemp2p.errors import GolemError, RemoteProtocolError


class Auditor:
    """Give it the lines of a file, in order; then :meth:`report`. Raises RemoteProtocolError for a wrong first line."""

    def __init__(self, first_line: str) -> None:
        self.header = parse_header(first_line)
        self._chain = ChainChecker(self.header)
        self._entries = 0
        self._findings: list[Finding] = []
        self._findings_total = 0
        self._agreements: dict[str, SignedAgreement] = {}
        self._books: dict[tuple[str, Side], Book] = {}
        self._notices: dict[tuple[str, Side], Notice] = {}
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
            EntryKind.CHANNEL_CLOSED: self._channel_closed,
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
        require(found.id == entry.agreement_id, "the entry is about another agreement")
        require(found.id not in self._agreements, "the agreement was written down before")
        require(self.header.node in (found.agreement.requestor, found.agreement.provider), "the node has no part in it")
        self._agreements[found.id] = found

    def _book(self, agreement_id: str, body: Mapping[str, Any]) -> Book:
        side = side_of(body)
        if agreement_id not in self._agreements:
            raise RemoteProtocolError(f"agreement {agreement_id!r:.80} is not in the journal before it")
        terms = self._agreements[agreement_id]
        mine = terms.agreement.requestor if side is Side.PAYER else terms.agreement.provider
        require(mine == self.header.node, f"the node is not the agreement's {side}")
        return self._books.setdefault((agreement_id, side), Book(terms, side))

    def _bill(self, entry: Entry, body: dict[str, Any]) -> None:
        struct = DEBIT_NOTE_STRUCT if entry.kind == EntryKind.DEBIT_NOTE else INVOICE_STRUCT
        message = signed(struct, body)
        book = self._book(entry.agreement_id, body)
        noun = "debit note" if struct is DEBIT_NOTE_STRUCT else "invoice"
        check_parties(book, message, noun)
        check_signature(book.terms.domain, struct, message, body, book.terms.payee, f"the {noun}", "provider")
        document = Document(struct, message, digest(book.terms.domain, struct, message), entry.seq)
        require(str(message["id"]) not in book.documents, f"the {noun} was written down before")
        if document.is_note:
            parse_usage(str(message["usage"]))
            self._check_note(book, document)
            book.notes.setdefault(document.activity, []).append(document)
        else:
            require(book.invoice() is None, "the agreement has an invoice already")
            book.ledger.accept_invoice(document.amount)
        book.documents[str(message["id"])] = document
        book.platform = str(message["platform"])

    @staticmethod
    def _check_note(book: Book, note: Document) -> None:
        last = book.last_note(note.activity)
        if last is not None and note.amount < last.amount:
            raise RemoteProtocolError(
                f"the debit note claims {format_amount(note.amount)}, less than entry {last.entry}"
                f" of the same activity ({format_amount(last.amount)}): totals never go down"
            )
        previous = str(note.message["previousId"])
        if book.side is Side.PAYEE and previous != ("" if last is None else last.message["id"]):
            raise RemoteProtocolError("the debit note does not name the one before it")

    def _document(self, entry: Entry, body: Mapping[str, Any], document_id: object) -> tuple[Book, Document]:
        book = self._book(entry.agreement_id, body)
        document = book.documents.get(str(document_id))
        if document is None:
            raise RemoteProtocolError(f"document {document_id!r:.80} is not in the journal before it")
        return book, document

    def _cancellation(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, "side", "documentId")
        book, document = self._document(entry, body, body["documentId"])
        require(book.side is Side.PAYEE and not document.accepted, "only an unsent document can be cancelled")
        document.dead = True

    def _rejection(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, "side", "documentId", "code", "message")
        _, document = self._document(entry, body, body["documentId"])
        require(not document.accepted, "the document was accepted before it was rejected")
        document.dead = True

    def _acceptance(self, entry: Entry, body: dict[str, Any]) -> None:
        message = signed(ACCEPTANCE_STRUCT, body)
        book, document = self._document(entry, body, message["documentId"])
        terms = book.terms
        check_parties(book, message, "acceptance")
        check_signature(terms.domain, ACCEPTANCE_STRUCT, message, body, terms.payer, "the acceptance", "requestor")
        require(message["document"] == document.digest, f"the acceptance is of other words than entry {document.entry}")
        require(
            message["amount"] == document.amount and message["platform"] == document.message["platform"],
            f"the acceptance is of another amount or platform than entry {document.entry}",
        )
        document.dead = False
        document.accepted = True
        if document.is_note:
            # Through a channel every note is paid when it is accepted.
            payable = document.message["dueAt"] != 0 or mode_of(terms.agreement.demand) == CHANNEL
            book.ledger = book.ledger.accept_note(document.activity, document.amount, payable=payable)
            check_price(terms.agreement, document, [document], f"entry {document.entry}")
        else:
            book.ledger = book.ledger.accept_invoice(document.amount)

    def _notice(self, entry: Entry, body: dict[str, Any]) -> None:
        message = signed(PAYMENT_NOTICE_STRUCT, body)
        ids, amounts = texts_of(message["agreementIds"]), [whole(text) for text in texts_of(message["amounts"])]
        require(len(ids) == len(amounts) == len(set(ids)) > 0, "the notice does not give one amount for each agreement")
        require(sum(amounts) == message["amount"], "the shares do not add up to the notice's amount")
        require(entry.agreement_id in ("", *ids), "the entry is about another agreement")
        narrowed = self.header.agreement_id  # a file about one agreement does not tell of the others
        require(narrowed in ("", *ids), "the file is about another agreement")
        shares = [
            (self._book(one, body), Amount(amount))
            for one, amount in zip(ids, amounts, strict=True)
            if narrowed in ("", one)
        ]
        for book, _ in shares:
            check_parties(book, message, "notice", agreement=False)
        terms = shares[0][0].terms
        check_signature(terms.domain, PAYMENT_NOTICE_STRUCT, message, body, terms.payer, "the notice", "requestor")
        key = (str(message["id"]), side_of(body))
        require(key not in self._notices, "the notice was written down before")
        self._notices[key] = Notice(message, shares)

    def _open_notice(self, body: Mapping[str, Any]) -> Notice:
        notice = self._notices.get((str(body["noticeId"]), side_of(body)))
        if notice is None:
            raise RemoteProtocolError(f"payment notice {body['noticeId']!r:.80} is not in the journal before it")
        require(not notice.decided, "the payment notice was decided on before")
        require(
            body["transaction"] == "0x" + bytes_of(notice.message["transaction"]).hex(),
            "the transaction is another than the notice's",
        )
        notice.decided = True
        return notice

    def _refused(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, "side", "noticeId", "transaction", "reason")
        self._open_notice(body)

    def _payment(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, "side", "noticeId", "chainId", "transaction", "blockNumber", "blockHash", "legs")
        notice = self._open_notice(body)
        platform = str(notice.message["platform"])
        require(type(body["chainId"]) is int, "chainId is no number")
        require(
            self._chains.setdefault(platform, body["chainId"]) == body["chainId"],
            f"platform {platform} was on chain {self._chains[platform]} before",
        )
        if side_of(body) is Side.PAYEE:
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

    def _check_legs(self, notice: Notice, body: Mapping[str, Any]) -> None:
        legs = body["legs"]
        require(isinstance(legs, list) and len(legs) > 0, "no transfer on the chain bears the payment out")
        total, tokens = 0, set()
        for leg in legs:
            if not isinstance(leg, dict):
                raise RemoteProtocolError("a leg is no object")
            require_fields(leg, "logIndex", "token", "from", "to", "amount")
            require(
                type(leg["logIndex"]) is int and isinstance(leg["token"], str), "a leg's event or token is malformed"
            )
            require(leg["to"] == notice.message["payee"], "a transfer goes to somebody else")
            event = (body["chainId"], str(body["transaction"]), leg["logIndex"])
            require(event not in self._events, "a transfer has paid for something else before")
            self._events.add(event)
            tokens.add(leg["token"])
            total += whole(leg["amount"])
        require(len(tokens) == 1, "the transfers are of several tokens")
        require(total == notice.message["amount"], "the transfers do not add up to the notice's amount")

    def _voucher(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, *VOUCHER_FIELDS)
        book = self._book(entry.agreement_id, body)
        terms = book.terms
        require(mode_of(terms.agreement.demand) == CHANNEL, "the agreement is not paid through a channel")
        grown = self._channels.voucher(book.side, body, terms.id, terms.payer, terms.payee)
        book.vouched = Amount(book.vouched + grown)
        book.last_voucher = entry.seq

    def _claim(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, *CLAIM_FIELDS)
        side = side_of(body)
        for agreement_id, amount in self._channels.claim(side, body, self.header.agreement_id).items():
            book = self._book(agreement_id, body)
            book.ledger = book.ledger.credit(amount)
            book.claimed = Amount(book.claimed + amount)
            book.last_payment = entry.seq

    def _channel_closed(self, entry: Entry, body: dict[str, Any]) -> None:
        require_fields(body, *CLOSED_FIELDS)
        for agreement_id, amount in self._channels.closed(side_of(body), body, self.header.agreement_id).items():
            book = self._book(agreement_id, body)
            book.uncovered = Amount(book.uncovered + amount)

    # --- at the end -----------------------------------------------------------------------------------------------

    def _close(self, book: Book) -> None:
        """What can only be judged when all is known: the order of arrival is nobody's fault."""
        invoice = book.invoice()
        if invoice is not None and invoice.accepted:
            notes = [note for activity in book.notes if (note := book.last_note(activity)) is not None]
            try:
                check_price(book.terms.agreement, invoice, notes, "the last notes")
            except GolemError as exc:
                self._find(invoice.entry, book.terms.id, exc.message)
        if book.side is Side.PAYEE and book.ledger.paid > book.ledger.accepted:
            paid, accepted = format_amount(book.ledger.paid), format_amount(book.ledger.accepted)
            self._find(book.last_payment, book.terms.id, f"{paid} was paid, of which {accepted} was accepted")

        promised = book.vouched - book.uncovered + book.ledger.paid - book.claimed
        if book.side is Side.PAYER and book.vouched and promised > book.ledger.accepted:
            vouched, accepted = format_amount(book.vouched), format_amount(book.ledger.accepted)
            self._find(
                book.last_voucher or book.last_payment,
                book.terms.id,
                f"vouchers of {vouched} and payments are more than was accepted ({accepted})",
            )

    @staticmethod
    def _account(book: Book) -> Account:
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


__all__ = ["Account", "Auditor", "Finding", "Report", "audit"]
