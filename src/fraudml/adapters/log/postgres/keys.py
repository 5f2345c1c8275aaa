"""Transaction ids as keys: PostgreSQL's text holds no NUL, and its indexes no text of more than 2,704 bytes."""

from __future__ import annotations

from hashlib import sha256

LONGEST = 1_000  # bytes
MARK = "\x1a"  # what a digest begins with, so that it is no other transaction's id


def key_of(transaction_id: str) -> tuple[bytes, bytes | None]:
    """The key, and the id itself where the key is only its digest; both as UTF-8.

    >>> key_of("t1"), key_of("t" * 3_000)[0][:9]
    ((b't1', None), b'\\x1aeac1d01e')
    """
    plain = transaction_id.encode()
    if len(plain) <= LONGEST and b"\x00" not in plain and not plain.startswith(b"\x1a"):
        return plain, None
    return f"{MARK}{sha256(plain).hexdigest()}".encode(), plain
