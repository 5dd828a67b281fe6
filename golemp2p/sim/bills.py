"""What bills say, read off the documents that both sides signed: never off the totals that a node reckons from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from golemp2p.core.ids import Address
from golemp2p.core.payment import DocumentKind, DocumentState, Side
from golemp2p.storage import payment as repo

Pair = tuple[Address, Address]  # payer, payee
_PROMISED = (DocumentState.ACCEPTED, DocumentState.SETTLED, DocumentState.FAILED)


def promised(connection: sa.Connection) -> Counter[Pair]:
    """By the node, of each agreement: the accepted invoice, or else the highest accepted note of each activity."""
    c = repo.documents.c
    query = sa.select(c.agreement_id, c.kind, c.activity_id, c.payer, c.payee, c.amount).where(
        c.side == Side.PAYER, c.state.in_(_PROMISED)
    )
    notes: dict[tuple[str, Pair], dict[str, int]] = defaultdict(dict)
    invoices: Counter[tuple[str, Pair]] = Counter()
    for row in connection.execute(query):
        place = row.agreement_id, (Address(row.payer), Address(row.payee))
        if row.kind == DocumentKind.INVOICE:
            invoices[place] += row.amount
        else:
            notes[place][row.activity_id] = max(row.amount, notes[place].get(row.activity_id, 0))
    found: Counter[Pair] = Counter()
    for place in invoices.keys() | notes.keys():
        found[place[1]] += invoices[place] or sum(notes[place].values())
    return found


def open_invoices(connection: sa.Connection, *, before_ms: int) -> Sequence[repo.StoredDocument]:
    """Those that the node issued so long ago and that are not settled."""
    found = repo.find_documents(connection, kind=DocumentKind.INVOICE, side=Side.PAYEE)
    return [s for s in found if s.state is not DocumentState.SETTLED and s.document.issued_at_ms < before_ms]
