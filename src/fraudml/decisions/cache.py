"""Port: the prediction cache, and how scores come from it. Adapters live in ``adapters/cache``.

A score is kept under the model's identity and the *quantised* inputs. While a cache is in use the model reads these
quantised inputs on a miss, too, so whether a score was cached never shows in an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import CacheError

MANTISSA_BITS = 12  # of float32's 23: three to four significant digits
_FLOAT32_BITS = 23

# Scores of float32 [n, k], float64 [n]
Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
# Told how many look-ups ended how: (hit | miss | error, count)
OnOutcome = Callable[[str, int], None]

logger = logging.getLogger(__name__)


class PredictionCache(Protocol):
    """Scores by key, bounded in number and in age. Safe for use by several threads.

    What was put may be gone at any time. Raises ``CacheError`` when the backend fails.
    """

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """For each key its score, exactly as it was put; ``None`` where there is none, or none young enough."""
        ...

    def put(self, scores: Mapping[bytes, float]) -> None:
        """Keep these scores; a key put again starts its time anew."""
        ...


class ScoreCache:
    """A cache in front of models. A failing cache is no cache: the model scores, and the outcome says ``error``."""

    def __init__(self, cache: PredictionCache, on_outcome: OnOutcome | None = None) -> None:
        self._cache = cache
        self._on_outcome = on_outcome or (lambda outcome, count: None)
        self._is_down = False

    def scores(self, model: bytes, vectors: NDArray[np.float32], score: Score) -> list[float]:
        """Scores of the quantised vectors (float32 ``[n, k]``); only those that are not held are computed.

        ``model``: an identity of fixed length, unique to a version and its ONNX file.
        """
        rows = quantise(vectors)
        if not len(rows):
            return []
        keys = [model + row for row in rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0].tolist()]
        answer = self._get(keys)
        held = answer or [None] * len(keys)
        missing = [i for i, found in enumerate(held) if found is None]
        works = answer is not None
        if missing:
            # all of them, as on a cold cache, need no copy of the rows
            fresh = score(rows if len(missing) == len(rows) else rows[missing]).tolist()
            for i, value in zip(missing, fresh, strict=True):
                held[i] = value
            works = works and self._put({keys[i]: held[i] for i in missing})
        if works and self._is_down:
            logger.info("the prediction cache works again")
        self._is_down = not works
        return [value for value in held if value is not None]

    def _get(self, keys: Sequence[bytes]) -> list[float | None] | None:
        try:
            held = self._cache.get(keys)
        except CacheError as error:
            self._failed(error, len(keys))
            return None
        misses = held.count(None)
        if misses:
            self._on_outcome("miss", misses)
        if misses < len(held):
            self._on_outcome("hit", len(held) - misses)
        return held

    def _put(self, scores: Mapping[bytes, float | None]) -> bool:
        try:
            # what is no probability is the model's failure of the moment: not kept
            self._cache.put({key: score for key, score in scores.items() if score is not None and 0.0 <= score <= 1.0})
        except CacheError as error:
            self._failed(error, len(scores))
            return False
        return True

    def _failed(self, error: CacheError, count: int) -> None:
        self._on_outcome("error", count)
        if not self._is_down:
            logger.warning("the prediction cache failed, every transaction is scored: %s", error)


def quantise(vectors: NDArray[np.float32], bits: int = MANTISSA_BITS) -> NDArray[np.float32]:
    """Keep ``bits`` bits of mantissa (1 to 23), rounding towards zero: a C-contiguous copy of float32 ``[n, k]``.

    The relative error is below ``2 ** -bits`` (0.025 % with 12 bits), except under 1.2e-38, the smallest normal
    number. Whole numbers up to ``2 ** (bits + 1)`` stay exact; NaN stays NaN, and what is finite stays finite, which
    rounding to nearest would need several more passes for.

    >>> quantise(np.array([[8192, 12345, 0.1]], np.float32)).tolist()[0][:2]
    [8192.0, 12344.0]
    """
    mask = np.int32(-1 << (_FLOAT32_BITS - bits))
    return np.bitwise_and(vectors.view(np.int32), mask, order="C").view(np.float32)
