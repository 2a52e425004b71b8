"""Replace the identity of patients with salted hashes."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from camscope.errors import StoreError
from camscope.files import write_atomically, writing

PRIVATE = "private"
_DIGITS = 12
_SALT = 32  # bytes


def salt_of(folder: Path) -> bytes:
    """Return the salt of a folder of results; it is created once and kept in the folder ``private``.

    Raises:
        StoreError: the salt cannot be written, or is damaged.
    """
    path = folder / PRIVATE / "salt"
    with writing(path):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(secrets.token_hex(32).encode()))
        salt = path.read_bytes()
    if len(salt) < _SALT:
        raise StoreError(f"{path} is damaged, its salt is too short: restore it, or remove it for new pseudonyms")
    return salt


def pseudonym(identity: str, salt: bytes) -> str:
    """Return the salted hash of an identity.

    >>> pseudonym("Ann", b"salt")
    'fac219499c0c'
    """
    return hashlib.sha256(salt + identity.encode("utf-8", "replace")).hexdigest()[:_DIGITS]
