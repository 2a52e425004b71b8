"""Replace the identity of patients with salted hashes."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from camscope.files import write_atomically, writing

PRIVATE = "private"
_DIGITS = 12


def salt_of(folder: Path) -> bytes:
    """Return the salt of a folder of results; it is created once and kept in the folder ``private``.

    Raises:
        StoreError: the salt cannot be written.
    """
    path = folder / PRIVATE / "salt"
    with writing(path):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(secrets.token_hex(32).encode()))
        return path.read_bytes()


def pseudonym(identity: str, salt: bytes) -> str:
    """Return the salted hash of an identity.

    >>> pseudonym("Ann", b"salt")
    'fac219499c0c'
    """
    return hashlib.sha256(salt + identity.encode("utf-8", "replace")).hexdigest()[:_DIGITS]
