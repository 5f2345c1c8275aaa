"""Scores a bundle where fraudml is not installed: this one file, NumPy and ONNX Runtime.

Copy it to the device beside a bundle (the directory with ``model.onnx`` and ``manifest.json``) and either import it,

    model = EdgeModel("bundle")
    scores = model.score_rows([{"amount": 12.5, "hour_of_day": 3}])
    actions = [model.action(score) for score in scores]

or run it: ``python edge.py BUNDLE < rows.jsonl`` reads one JSON object of feature values per line and prints one
object with ``score`` and ``action`` for each. A bundle is verified when it is loaded, as fraudml does it, and the
scores of :meth:`EdgeModel.score` are fraudml's bit for bit. Features are not computed here: who calls has to know them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Microsoft's builds of ONNX Runtime report their use; this is read when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

FORMAT_VERSION = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
SCORE_TOLERANCE = 1e-5
ROWS_AT_ONCE = 1_000  # as in fraudml: the pieces of a large batch may decide the last bit of a score
FLOAT32_MAX = float(np.finfo(np.float32).max)
INPUT, PROBABILITY = "features", "probability"


class EdgeError(Exception):
    """A bundle that must not serve, or rows that cannot be scored; its text says why, in one line."""


class EdgeModel:
    """A verified bundle in memory; safe for use by several threads.

    ``names``: the inputs in the order of a vector; ``review`` and ``decline``: the thresholds of the policy.
    """

    def __init__(self, directory: str | Path) -> None:
        """Load and verify; raises EdgeError with the reason when the bundle must not serve."""
        place = Path(directory)
        manifest = _manifest(place)
        try:
            self.names = tuple(str(each["name"]) for each in manifest["features"] if each.get("input", True))
            self.review, self.decline = (float(manifest["thresholds"][name]) for name in ("review", "decline"))
            expected = np.array(manifest["reference_scores"], dtype=np.float64)
            inputs = _matrix(manifest["reference_inputs"], len(self.names))
            declared = str(manifest["onnx_sha256"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EdgeError(f"bundle {place}: {MANIFEST_FILE} is corrupt ({type(error).__name__}: {error})") from None
        if not 0 <= self.review <= self.decline:
            raise EdgeError(f"bundle {place}: the thresholds must rise from review to decline")
        self._place = {name: i for i, name in enumerate(self.names)}
        self._session = _session(place, declared)
        self._verify(place, inputs, expected)

    def score(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of fraud: float32 ``[n, k]``, NaN for missing, to float64 ``[n]``."""
        if vectors.ndim != 2 or vectors.shape[1] != len(self.names):
            raise EdgeError(f"vectors have shape {vectors.shape}; this model reads (n, {len(self.names)})")
        starts = range(0, len(vectors), ROWS_AT_ONCE)
        parts = [self._run(vectors[start : start + ROWS_AT_ONCE]) for start in starts]
        return np.concatenate(parts) if parts else np.empty(0)

    def score_rows(self, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
        """The same of rows that name their values: float64 ``[n]``. What is absent or ``None`` is missing.

        Raises EdgeError for a name that is no input of the model (it may be misspelt) and for what is no number.
        """
        vectors = np.full((len(rows), len(self.names)), np.nan)
        for i, row in enumerate(rows):
            for name, value in row.items():
                vectors[i, self._column(name)] = _number(name, value)
        clipped = np.maximum(np.minimum(vectors, FLOAT32_MAX), -FLOAT32_MAX)  # NaN stays
        return self.score(clipped.astype(np.float32))

    def action(self, score: float | None) -> str:
        """``approve``, ``review`` or ``decline``; without a score (``None`` or NaN) it is ``review``."""
        if score is None or math.isnan(score):
            return "review"
        if score >= self.decline:
            return "decline"
        return "review" if score >= self.review else "approve"

    def _column(self, name: str) -> int:
        try:
            return self._place[name]
        except KeyError:
            similar = difflib.get_close_matches(str(name), self.names, n=1)
            hint = f"; is it {similar[0]!r}?" if similar else ""
            raise EdgeError(f"{name!r} is no input of this model{hint}") from None

    def _run(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        try:
            (found,) = self._session.run([PROBABILITY], {INPUT: vectors})
        except Exception as error:  # ONNX Runtime has no common base for its errors
            raise EdgeError(f"ONNX Runtime cannot score: {str(error).splitlines()[0]}") from error
        return np.asarray(found, dtype=np.float64).reshape(-1)

    def _verify(self, place: Path, inputs: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
        """Raise EdgeError unless the reference inputs get their scores."""
        scores = self.score(inputs)
        if not len(scores) or scores.shape != expected.shape:
            raise EdgeError(f"bundle {place}: the reference inputs or their scores are missing")
        differences = np.abs(scores - expected)
        if not np.all(differences <= SCORE_TOLERANCE):
            raise EdgeError(
                f"bundle {place}: the model does not give the reference scores "
                f"(largest difference {differences.max():.2g}); it must not serve"
            )


def _manifest(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise EdgeError(f"{place} is no bundle: cannot read {MANIFEST_FILE}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"bundle {place}: {MANIFEST_FILE} is corrupt: {error}") from None
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:
        raise EdgeError(f"bundle {place} has format {version!r}; this file reads format {FORMAT_VERSION}")
    return dict(found)


def _session(place: Path, sha256: str) -> Any:
    """ONNX Runtime as fraudml uses it: one thread, which does not spin."""
    try:
        model = (place / MODEL_FILE).read_bytes()
    except OSError as error:
        raise EdgeError(f"bundle {place}: cannot read {MODEL_FILE}: {error.strerror}") from None
    if hashlib.sha256(model).hexdigest() != sha256:
        raise EdgeError(f"bundle {place}: {MODEL_FILE} is corrupt (its SHA-256 is not the manifest's)")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise EdgeError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error
    outputs = {output.name for output in session.get_outputs()}
    if PROBABILITY not in outputs or [each.name for each in session.get_inputs()] != [INPUT]:
        raise EdgeError(f"the model must read {INPUT!r} and give {PROBABILITY!r}")
    return session


def _matrix(rows: Sequence[Sequence[float | None]], width: int) -> npt.NDArray[np.float32]:
    """Rows with ``None`` for missing as float32 ``[n, width]``; raises ValueError for another width."""
    found = np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float32)
    return found.reshape(len(rows), width)


def _number(name: str, value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        raise EdgeError(f"{name!r} must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _score_lines(model: EdgeModel, lines: Iterable[str]) -> Iterable[str]:
    """One JSON object for each line that is not empty; raises EdgeError that names the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise EdgeError("expected an object of feature values")
            score = float(model.score_rows([row])[0])
        except (EdgeError, ValueError, RecursionError) as error:
            raise EdgeError(f"line {number}: {error}") from None
        known = score if 0.0 <= score <= 1.0 else None  # nonsense is no score
        yield json.dumps({"score": known, "action": model.action(known)})


def main(arguments: Sequence[str]) -> int:
    """``edge.py BUNDLE``: rows on standard input to scores on standard output; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python edge.py BUNDLE < rows.jsonl\n")
        return 2
    try:
        for answer in _score_lines(EdgeModel(arguments[0]), sys.stdin):
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()  # each score is out before the next row comes
    except (EdgeError, UnicodeDecodeError) as error:
        sys.stderr.write(f"edge: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
