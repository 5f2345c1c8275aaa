"""State that outlives a process: what is kept of an object, and how arrays are written (MessagePack, by msgspec)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Kinds = Mapping[str, Any]


class _Array(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Kept:
    """An object whose state can be kept and gone on from, bit for bit.

    ``KEPT``: the attributes that are its state, each with its type, or None for another :class:`Kept`. What is not
    there is given by the constructor's arguments, which have to be the same again.

    >>> class Count(Kept):
    ...     KEPT = {"total": int}
    ...     total = 0
    >>> count = Count()
    >>> count.restore(decode(encode({"total": 3})))
    >>> count.total
    3
    """

    KEPT: ClassVar[Kinds] = {}

    def kept(self) -> dict[str, Any]:
        """The state, for :func:`encode`; it changes with the object."""
        held = {name: getattr(self, name) for name in self.KEPT}
        return {name: each.kept() if isinstance(each, Kept) else each for name, each in held.items()}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a state that :func:`decode` gave.

        Raises KeyError, ValueError, TypeError or ``msgspec.MsgspecError`` for what is none, and is then of no use.
        """
        for name, kind in self.KEPT.items():
            held = getattr(self, name)
            if isinstance(held, Kept):
                held.restore(kept[name])
            else:
                setattr(self, name, msgspec.convert(kept[name], kind, dec_hook=_restored))


def encode(state: Mapping[str, Any]) -> bytes:
    """The bytes of a state."""
    return msgspec.msgpack.encode(state, enc_hook=_written)


def decode(data: bytes) -> Any:
    """What :func:`encode` was given, its arrays not yet made; raises ``msgspec.DecodeError``."""
    return msgspec.msgpack.decode(data)


def _written(value: Any) -> _Array:
    if not isinstance(value, np.ndarray):
        raise NotImplementedError(f"a {type(value).__name__} cannot be kept")
    return _Array(value.dtype.str, value.shape, value.tobytes())


def _restored(kind: type, value: Any) -> NDArray[Any]:
    """An array of its own, which can be written to."""
    found = msgspec.convert(value, _Array)
    return np.frombuffer(found.data, np.dtype(found.dtype)).reshape(found.shape).copy()
