"""Scores in this process's memory: bounded, and each for a limited time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence


class MemoryPredictionCache:
    """The prediction cache in this process; see :class:`fraudml.decisions.cache.PredictionCache`.

    At most ``size`` scores are held; the one put first goes first. None is given out ``ttl_s`` seconds after it was
    put. ``clock`` gives seconds and never goes back. An entry takes about 130 bytes and its key.
    """

    def __init__(self, size: int, ttl_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._ttl_s = ttl_s
        self._clock = clock
        # Not a plain dict: to find its first key, it walks over the places of all those removed since it last grew.
        self._entries: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """See ``PredictionCache``."""
        now = self._clock()
        with self._lock:
            held = [self._entries.get(key) for key in keys]
        return [entry[1] if entry is not None and now < entry[0] else None for entry in held]

    def put(self, scores: Mapping[bytes, float]) -> None:
        """See ``PredictionCache``."""
        until = self._clock() + self._ttl_s
        with self._lock:
            entries = self._entries
            for key, score in scores.items():
                entries[key] = (until, score)
                entries.move_to_end(key)  # a key put again keeps its old place otherwise
            while len(entries) > self._size:
                entries.popitem(last=False)
