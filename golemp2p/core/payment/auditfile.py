"""An exported journal: one line of JSON that says and signs what the file holds, then one line for each entry.

Everything is in canonical spelling (core/payment/journal.py), so there is one file for one journal and any changed byte
shows. The header counts the entries and names the last one: a file cut at its end is as wrong as one changed within.
See protocols/payment.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from golemp2p import limits
from golemp2p.core.eip712 import Domain, Struct, Value, digest
from golemp2p.core.ids import PeerId
from golemp2p.core.payment.journal import GENESIS, Entry, canonical, parse_object
from golemp2p.core.peer import address_of, recover_address
from golemp2p.errors import RemoteProtocolError, UsageError

FORMAT: Final = "golemp2p-audit-1"
AUDIT_EXPORT_STRUCT: Final = Struct(
    "AuditExport",
    (
        ("string", "format"),
        ("address", "node"),
        ("string", "agreementId"),
        ("uint64", "entries"),
        ("bytes32", "list"),
        ("uint64", "headSeq"),
        ("bytes32", "head"),
        ("uint64", "exportedAt"),
    ),
)
_HASH: Final = re.compile("[0-9a-f]{64}", re.ASCII)
_SIGNATURE: Final = re.compile("[0-9a-f]{130}", re.ASCII)
_KIND: Final = re.compile("[a-z][a-z_]{0,39}", re.ASCII)
_MOST: Final = 2**53


@dataclass(frozen=True)
class Header:
    """``agreement_id``: what the file was narrowed to, "" for the whole journal. ``list_hash``: of the entries' hashes.
    ``head_seq``, ``head``: the journal's last entry, also when the file does not hold it."""

    domain: Domain
    node: PeerId
    agreement_id: str
    entries: int
    list_hash: str
    head_seq: int
    head: str
    exported_at_ms: int
    signature: bytes = b""

    def digest(self) -> bytes:
        message: dict[str, Value] = {
            "format": FORMAT,
            "node": address_of(self.node),
            "agreementId": self.agreement_id,
            "entries": self.entries,
            "list": bytes.fromhex(self.list_hash),
            "headSeq": self.head_seq,
            "head": bytes.fromhex(self.head),
            "exportedAt": self.exported_at_ms,
        }
        return digest(self.domain, AUDIT_EXPORT_STRUCT, message)

    @property
    def line(self) -> str:
        return canonical(
            {
                "format": FORMAT,
                "network": self.domain.network,
                "chainId": self.domain.chain_id,
                "node": self.node,
                "agreement": self.agreement_id,
                "entries": self.entries,
                "list": self.list_hash,
                "headSeq": self.head_seq,
                "head": self.head,
                "exportedAt": self.exported_at_ms,
                "signature": self.signature.hex(),
            }
        )


def list_hash(hashes: Iterable[str]) -> str:
    """SHA-256 over the 32 bytes of each entry's hash, in the file's order."""
    result = hashlib.sha256()
    for one in hashes:
        result.update(bytes.fromhex(one))
    return result.hexdigest()


def lines_of(data: IO[bytes]) -> Iterator[str]:
    """ "\\n" alone ends a line, and the last one has it too. Raises UsageError for one that is too long."""
    while raw := data.readline(limits.MAX_AUDIT_LINE_BYTES + 1):
        if len(raw) > limits.MAX_AUDIT_LINE_BYTES:
            raise UsageError(f"a line has more than {limits.MAX_AUDIT_LINE_BYTES} bytes: this is no exported journal")
        # What is no UTF-8 becomes lone surrogates, and what was cut an odd end: no canonical line has either.
        text = raw.decode(errors="surrogateescape")
        yield text[:-1] if text.endswith("\n") else text + "\N{SYMBOL FOR NEWLINE}"


def parse_header(line: str) -> Header:
    """The first line, its signature checked. Raises RemoteProtocolError."""
    try:
        found = parse_object(line)
    except RemoteProtocolError as exc:
        raise RemoteProtocolError(f"this is not an exported journal: its first line is {exc.message}") from exc
    if found.get("format") != FORMAT:
        raise RemoteProtocolError(f"this is not an exported journal: its first line has no format {FORMAT!r}")
    _require_fields(found, Header(Domain("", 0), PeerId(""), "", 0, GENESIS, 0, GENESIS, 0).line)
    for name in ("list", "head"):
        _require(_HASH, found, name)
    _require(_SIGNATURE, found, "signature")
    header = Header(
        Domain(found["network"], found["chainId"]),
        PeerId(found["node"]),
        found["agreement"],
        found["entries"],
        found["list"],
        found["headSeq"],
        found["head"],
        found["exportedAt"],
        bytes.fromhex(found["signature"]),
    )
    if recover_address(header.digest(), header.signature) != address_of(header.node):
        raise RemoteProtocolError("the header is not signed by the node that it names")
    return header


def parse_entry(line: str) -> tuple[Entry, dict[str, Any], str]:
    """The entry, its body, and the hash that the line gives for it. Raises RemoteProtocolError."""
    found = parse_object(line)
    _require_fields(found, Entry(1, 0, "k", "", "{}", GENESIS).line)
    for name in ("hash", "previous"):
        _require(_HASH, found, name)
    _require(_KIND, found, "kind")
    if found["seq"] < 1:
        raise RemoteProtocolError("seq is below 1")
    body = canonical(found["body"])
    return (
        Entry(found["seq"], found["time"], found["kind"], found["agreement"], body, found["previous"]),
        found["body"],
        found["hash"],
    )


def _require_fields(found: dict[str, Any], example: str) -> None:
    """The same names and types as the example's."""
    wanted = parse_object(example)
    if set(found) != set(wanted):
        raise RemoteProtocolError(f"the fields are {', '.join(sorted(wanted))} and no others")
    for name, value in wanted.items():
        if type(found[name]) is not type(value) or (isinstance(value, int) and not 0 <= found[name] < _MOST):
            raise RemoteProtocolError(f"{name} is of the wrong type or size")


def _require(pattern: re.Pattern[str], found: dict[str, Any], name: str) -> None:
    if not pattern.fullmatch(found[name]):
        raise RemoteProtocolError(f"{name} is malformed")


class ChainChecker:
    """Follows the chain of a file's entries, one at a time."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._whole = header.agreement_id == ""
        self._list = hashlib.sha256()
        self._count = 0
        self._last: tuple[int, str] | None = (0, GENESIS)

    def add(self, entry: Entry, stated: str) -> str:
        """What is wrong with the entry; "" when nothing is."""
        last, self._last = self._last, (entry.seq, stated)
        self._count += 1
        self._list.update(bytes.fromhex(stated))
        if entry.hash != stated:
            return "the entry was changed: its hash is another"
        if last is None:
            return ""
        if entry.seq == last[0] + 1:
            return "" if entry.previous == last[1] else f"the entry does not follow entry {last[0]}"
        if self._whole or entry.seq <= last[0]:
            return f"the entry stands after entry {last[0]}: something was removed, added or moved"
        return ""

    def skip(self) -> None:
        """A line that is no entry."""
        self._last = None
        self._count += 1

    def end(self) -> list[str]:
        """What is wrong with the file as a whole."""
        header, problems = self.header, []
        if self._count != header.entries:
            problems.append(f"the file has {self._count} entries, its header says {header.entries}")
        if self._list.hexdigest() != header.list_hash:
            problems.append("the entries are not those that the header was signed for")
        if self._whole and self._last is not None and self._last != (header.head_seq, header.head):
            problems.append(f"the last entry is not entry {header.head_seq} as the header says")
        return problems
