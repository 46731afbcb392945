"""Settings to aiokafka's arguments; the handshakes themselves are tested against real listeners."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from sentinel.errors import ConfigurationError
from sentinel.kafka_security import security_arguments
from sentinel.settings import KafkaSecurity


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    client = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    client.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    client.private_key_pem.write_to_path(folder / "key.pem")
    authority.issue_cert("other@example.org").private_key_pem.write_to_path(folder / "other.pem")
    (folder / "text.pem").write_text("no certificate")
    return folder


def test_plain_needs_nothing() -> None:
    assert security_arguments(KafkaSecurity()) == {"security_protocol": "PLAINTEXT"}


def test_sasl_hands_over_the_account() -> None:
    security = KafkaSecurity.model_validate(
        {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", "username": "u", "password": "p"}
    )
    assert security_arguments(security) == {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
    }


def test_tls_verifies_by_default(files: Path) -> None:
    context = security_arguments(KafkaSecurity(protocol="SSL", ca_file=files / "ca.pem"))["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_without_hostname_the_chain_is_still_verified(files: Path) -> None:
    security = KafkaSecurity(protocol="SSL", ca_file=files / "ca.pem", check_hostname=False)
    context = security_arguments(security)["ssl_context"]
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca_file": "missing.pem"}, "ca_file: .*missing.pem is not a readable file"),
        ({"ca_file": "text.pem"}, "TLS files cannot be used"),
        ({"cert_file": "cert.pem", "key_file": "other.pem"}, "TLS files cannot be used"),
        ({"cert_file": "cert.pem", "key_file": "gone.pem"}, "key_file: .*gone.pem"),
    ],
)
def test_wrong_files_are_named(files: Path, changes: dict[str, str], message: str) -> None:
    paths = {name: files / path for name, path in changes.items()}
    security = KafkaSecurity.model_validate({"protocol": "SSL", **paths})
    with pytest.raises(ConfigurationError, match=message):
        security_arguments(security)


def test_an_encrypted_key_without_its_password_is_an_error_and_no_prompt(files: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((files / "key.pem").read_bytes(), password=None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    names = {"protocol": "SSL", "cert_file": files / "cert.pem", "key_file": locked}
    with pytest.raises(ConfigurationError, match="TLS files cannot be used"):
        security_arguments(KafkaSecurity.model_validate(names))
    unlocked = KafkaSecurity.model_validate({**names, "key_password": "secret"})
    assert security_arguments(unlocked)["security_protocol"] == "SSL"
