"""Is a part of some result the file that was written? A digest inside it says so.

A Parquet file may hold anything between its columns and its footer. A sealed one holds there a
digest of all the rest: any reader of Parquet takes it, and one read of the file checks it.
"""

from __future__ import annotations

import hashlib

from marey.configs.errors import InputError

MAGIC = b"PAR1"
TAG = b"marey.blake2b:"
"""Stands before the digest."""
DIGEST_BYTES = 32
_ROOM = len(TAG) + DIGEST_BYTES


def sealed(content: bytes) -> bytes:
    """A Parquet file with a digest of it inside; the same content gives the same bytes."""
    at = _footer(content)
    if at is None:
        raise ValueError("not a Parquet file")
    return content[:at] + TAG + _digest(content[:at], content[at:]) + content[at:]


def check_seal(content: bytes, name: str) -> None:
    """Raise InputError for a file that is cut, or not the one that was written.

    Files of earlier versions have no seal; of those only the frame of a Parquet file is checked.
    """
    at = _footer(content)
    if at is None:
        raise InputError(f"{name} is damaged: it is cut short, or no Parquet file")
    start = at - _ROOM
    if content[max(0, start) : at - DIGEST_BYTES] != TAG:
        return
    if _digest(content[:start], content[at:]) != content[at - DIGEST_BYTES : at]:
        raise InputError(f"{name} is damaged: it is not the file that was written")


def _digest(columns: bytes, footer: bytes) -> bytes:
    digest = hashlib.blake2b(columns, digest_size=DIGEST_BYTES)
    digest.update(footer)
    return digest.digest()


def _footer(content: bytes) -> int | None:
    """Where the footer begins; None where it cannot be told."""
    if len(content) < 12 or not content.startswith(MAGIC) or not content.endswith(MAGIC):
        return None
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return at if at >= len(MAGIC) else None
