"""Ed25519 keys under the gate's verdicts (RFC 8032), and the one form of JSON that is signed."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from sentinel.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sentinel.settings import Settings

DEFAULT_KEY: Final = "gate-signing-key.pem"
"""Name in ``runs_dir`` of the key that is made where the settings name none."""


def canonical(value: Any) -> bytes:
    """The bytes of ``value`` as JSON with sorted keys and no white space: one value has one form.

    ``value`` is made of JSON's own types (`msgspec.to_builtins`).
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def make_key(path: Path) -> str:
    """Write a new private key (PEM, PKCS 8, mode 0600) and return its public key, base64.

    Raises:
        CommandError: the file is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename this fails where the name is taken: no key is ever lost, and of two processes one wins.
        os.link(partial, path)
    except FileExistsError:
        raise CommandError(f"{path} is there already; a key is never replaced, choose another name") from None
    except OSError as error:
        raise CommandError(f"cannot write the key {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return public_key(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file. Raises ConfigurationError where there is none, or another kind."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError(
            f"gate.signing_key_file: cannot read {path} ({error.strerror}); `sentinel train gate keygen` makes one"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"gate.signing_key_file: {path} holds no unencrypted private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"gate.signing_key_file: the key in {path} is not an Ed25519 key")
    return key


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """The key of ``gate.signing_key_file``; where none is named, the one in ``runs_dir``, made on first use.

    Raises:
        ConfigurationError: the named file has no such key.
    """
    if settings.gate.signing_key_file is not None:
        return load_key(settings.gate.signing_key_file)
    path = settings.runs_dir / DEFAULT_KEY
    if not path.exists():
        try:
            make_key(path)
        except CommandError:
            # Another process was quicker; where it was something else, reading says what.
            if not path.exists():
                raise
    return load_key(path)


def trusted_keys(settings: Settings) -> tuple[str, ...]:
    """Public keys that the settings trust: those listed, and the own key's where there is one."""
    path = settings.gate.signing_key_file or settings.runs_dir / DEFAULT_KEY
    own = (public_key(load_key(path)),) if path.exists() else ()
    return (*settings.gate.public_keys, *own)


def public_key(key: Ed25519PrivateKey) -> str:
    """Its public key, 32 bytes as base64."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def read_public_key(path: Path) -> str:
    """A public key from a file: base64 of its 32 bytes, or PEM. Raises CommandError for anything else."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read the public key {path}: {error.strerror}") from error
    if content.startswith(b"-----BEGIN PUBLIC KEY"):
        try:
            key = serialization.load_pem_public_key(content)
        except ValueError as error:
            raise CommandError(f"{path} holds no public key") from error
        if isinstance(key, Ed25519PublicKey):
            return base64.b64encode(key.public_bytes_raw()).decode()
        raise CommandError(f"the key in {path} is not an Ed25519 key")
    text = content.decode("ascii", "replace").strip()
    if _raw(text, 32) is None:
        raise CommandError(f"{path} is neither a PEM public key nor 32 bytes in base64")
    return text


def sign(key: Ed25519PrivateKey, content: bytes) -> str:
    """The signature of ``content``, base64."""
    return base64.b64encode(key.sign(content)).decode()


def signed_by(public: str, signature: str, content: bytes) -> bool:
    """Whether ``signature`` is that key's under ``content``; False too where one of them is malformed."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key, mark = _raw(public, 32), _raw(signature, 64)
    if key is None or mark is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(mark, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _raw(text: str, length: int) -> bytes | None:
    """The bytes of a base64 text in its one canonical form, None where it is none of that length."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # The last character carries spare bits: without this a second text would stand for the same bytes.
    return found if len(found) == length and base64.b64encode(found).decode() == text else None
