"""ONNX Runtime, the only thing that scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import BundleError

# Microsoft's builds report their use to Microsoft and leave a database in the user's home; this is read when the
# library is loaded. Whoever wants that may set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

INPUT = "features"
PROBABILITY = "probability"
MARGIN = "margin"
ROWS_AT_ONCE = 1_000  # the runtime keeps the memory of its largest batch for ever; smaller pieces are no slower


class Predictor(Protocol):
    """Anything that scores model inputs, float32 ``[n, k]`` with NaN for missing: a model here or on a server."""

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities of fraud, float64 ``[n]``; raises a FraudmlError where it cannot."""

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same before the sigmoid, float64 ``[n]``."""


class Runtime:
    """One model in memory; safe for use by several threads.

    The graph reads ``features`` (float32 ``[n, k]``, NaN is missing) and gives ``probability`` and ``margin``, its
    log-odds (float32 ``[n]`` each).
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort  # a fifth of a second, which whoever only reads manifests does not need

        self._only_what_is_asked = ort.RunOptions()
        self._only_what_is_asked.only_execute_path_to_fetches = True
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # a small batch is done before a second thread wakes up
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the core is needed elsewhere
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common base for its errors
            raise BundleError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error
        self.outputs = frozenset(output.name for output in self._session.get_outputs())
        if not {PROBABILITY, MARGIN} <= self.outputs or [i.name for i in self._session.get_inputs()] != [INPUT]:
            raise BundleError(f"the model must read {INPUT!r} and give {PROBABILITY!r} and {MARGIN!r}")

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities of fraud: float32 ``[n, k]`` to float64 ``[n]``."""
        return self.fetch([PROBABILITY], vectors)[0]

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same before the sigmoid: float64 ``[n]``; explanations add up on this scale."""
        return self.fetch([MARGIN], vectors)[0]

    def fetch(self, outputs: Sequence[str], vectors: NDArray[np.float32]) -> list[NDArray[np.float64]]:
        """Some of the graph's ``outputs``, float64 ``[n]`` each; nothing else is computed."""
        if len(vectors) > ROWS_AT_ONCE:
            starts = range(0, len(vectors), ROWS_AT_ONCE)
            pieces = [self.fetch(outputs, vectors[start : start + ROWS_AT_ONCE]) for start in starts]
            return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        if not len(vectors):
            return [np.empty(0) for _ in outputs]
        try:
            results = self._session.run(outputs, {INPUT: vectors}, self._only_what_is_asked)
        except Exception as error:  # as above
            raise BundleError(f"ONNX Runtime cannot score: {str(error).splitlines()[0]}") from error
        return [np.asarray(result, dtype=np.float64).reshape(-1) for result in results]
