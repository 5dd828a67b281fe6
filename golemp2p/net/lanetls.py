"""Certificates of bulk lanes: one per run of a node, in memory, believed by those who were told it over libp2p.

Neither side needs an authority: each trusts exactly the certificate that the other one named on an authenticated
stream. TLS 1.3 only; no session tickets, so that nothing unasked is ever to be read.
"""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import dataclass
from typing import Final

from golemp2p import limits
from golemp2p.errors import InternalError, RemoteProtocolError

_NAME: Final = "golemp2p lane"


@dataclass(frozen=True)
class LaneCertificate:
    """A key pair and a certificate that it signed itself."""

    der: bytes
    pem: bytes  # key and certificate, as ssl wants them


class CertificateHolder:
    """Makes the certificate when it is first asked for: few nodes need it in their first second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: LaneCertificate | None = None

    def get(self) -> LaneCertificate:
        """Blocking, the first time for about 50 ms (an import)."""
        with self._lock:
            self._made = self._made or make_certificate()
            return self._made


def make_certificate() -> LaneCertificate:
    """Without an end: it is believed for one connection only, and clocks differ."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return LaneCertificate(
        certificate.public_bytes(serialization.Encoding.DER),
        secret + certificate.public_bytes(serialization.Encoding.PEM),
    )


def context_for(own: LaneCertificate, their_der: bytes, *, server: bool) -> ssl.SSLContext:
    """A context in which ``their_der`` is the only certificate that counts. Raises RemoteProtocolError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is compared
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0
    _load(context, own.pem)
    if not 0 < len(their_der) <= limits.LANE_MAX_CERT_BYTES:
        raise RemoteProtocolError(f"a lane's certificate of {len(their_der)} bytes")
    try:
        context.load_verify_locations(cadata=their_der)
    except (ssl.SSLError, ValueError) as exc:
        raise RemoteProtocolError(f"a lane's certificate is none: {exc}") from exc
    return context


def check_pinned(shown: bytes | None, their_der: bytes) -> None:
    """That the peer has shown this very certificate, not one that it signed. Raises RemoteProtocolError."""
    if shown != their_der:
        raise RemoteProtocolError("the other end of a lane has another certificate than agreed")


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """ssl reads keys from files only; this one is in memory."""
    file = os.memfd_create("lane", os.MFD_CLOEXEC)
    try:
        if os.write(file, pem) != len(pem):
            raise InternalError("the lane's certificate was not written whole")
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
