"""Settings of Kafka's security as the arguments that aiokafka's consumer, producer and admin client take."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, TypedDict

from sentinel.errors import ConfigurationError

if TYPE_CHECKING:
    from sentinel.settings.stream import KafkaSecurity


class SecurityArguments(TypedDict, total=False):
    """Keyword arguments shared by every aiokafka client."""

    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str


def security_arguments(security: KafkaSecurity) -> SecurityArguments:
    """Make the arguments; files are read now, so a wrong one stops the start instead of every connection.

    Raises:
        ConfigurationError: a certificate or key cannot be read, or they do not belong together.
    """
    arguments = SecurityArguments(security_protocol=security.protocol)
    if security.protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(security)
    if security.protocol.startswith("SASL_"):
        if not (security.mechanism and security.username and security.password):
            raise ConfigurationError(
                f"kafka.security: protocol {security.protocol} needs mechanism, username and password"
            )
        arguments["sasl_mechanism"] = security.mechanism
        arguments["sasl_plain_username"] = security.username
        arguments["sasl_plain_password"] = security.password.get_secret_value()
    return arguments


def _ssl_context(security: KafkaSecurity) -> ssl.SSLContext:
    for name, path in (
        ("ca_file", security.ca_file),
        ("cert_file", security.cert_file),
        ("key_file", security.key_file),
    ):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"kafka.security.{name}: {path} is not a readable file")
    password = security.key_password.get_secret_value() if security.key_password else None
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=security.ca_file)
        if security.cert_file is not None:
            # Without a password OpenSSL would ask for one on the terminal, which a service does not have.
            context.load_cert_chain(security.cert_file, security.key_file, password=password or "")
    except ssl.SSLError as error:
        raise ConfigurationError(f"kafka.security: TLS files cannot be used: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"kafka.security: TLS files cannot be read: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = security.check_hostname
    return context
