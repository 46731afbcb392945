"""Certificates, key stores and accounts for the secured listeners."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass(frozen=True, slots=True)
class Security:
    """Files and secrets that both sides of a secured broker need; all paths are PEM files."""

    folder: Path
    ca: Path
    """The authority that signed the broker's and the client's certificates."""
    server_store: Path
    """Key and chain of the broker in one file, as Kafka's PEM key store wants them."""
    client_certificate: Path
    client_key: Path
    """Of ``client_certificate``; not encrypted."""
    other_ca: Path
    """An authority that signed nothing here."""
    other_certificate: Path
    other_key: Path
    """A client certificate that the broker must refuse."""
    username: str = "sentinel-test"
    password: str = "a-secret-for-tests"

    def client_context(self, *, certificate: bool = False, trusted: bool = True) -> ssl.SSLContext:
        """A verifying TLS context; ``trusted=False`` knows only the other authority."""
        context = ssl.create_default_context(cafile=str(self.ca if trusted else self.other_ca))
        if certificate:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context


def make_security(folder: Path) -> Security:
    """Sign everything anew (valid for 127.0.0.1 and localhost) and write it to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    client = authority.issue_cert("client@sentinel.test", common_name="sentinel-test")
    stranger = other.issue_cert("stranger@sentinel.test", common_name="stranger")

    def write(name: str, *parts: bytes) -> Path:
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(b"".join(parts))
        return path

    return Security(
        folder=folder,
        ca=write("ca.pem", authority.cert_pem.bytes()),
        server_store=write("server.pem", _pkcs8(server), *(blob.bytes() for blob in server.cert_chain_pems)),
        client_certificate=write("client.pem", *(blob.bytes() for blob in client.cert_chain_pems)),
        client_key=write("client.key", _pkcs8(client)),
        other_ca=write("other-ca.pem", other.cert_pem.bytes()),
        other_certificate=write("other.pem", *(blob.bytes() for blob in stranger.cert_chain_pems)),
        other_key=write("other.key", _pkcs8(stranger)),
    )


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    # Kafka reads PKCS #8 only; trustme writes the older form.
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
