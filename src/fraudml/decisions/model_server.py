"""Port: a model on a server, and how it stands in for the local copy. Adapters live in ``adapters/model_server``.

A server may be gone, hang, or have got another model meanwhile. So it is only used after it gave the bundle's
reference scores, each request carries one reference input along whose score is compared, and whatever is wrong, the
local copy of the same model scores. Nobody waits for a server that failed: a thread of its own tests it again.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.circuit import Circuit
from fraudml.errors import ModelServerError
from fraudml.models.bundle import SCORE_TOLERANCE, Bundle, as_matrix

# Of float32 [n, k], float64 [n]
Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]

logger = logging.getLogger(__name__)


class RemoteModel(Protocol):
    """One model on a server; safe for use by several threads.

    Scores like :class:`fraudml.models.runtime.Runtime`. Every call raises ``ModelServerError`` when the server fails,
    does not answer within the deadline, or answers what is no score, such as NaN or 1.2.
    """

    @property
    def place(self) -> str:
        """Where it is, for people; holds no secret."""
        ...

    def prepare(self) -> None:
        """Find out whether the server is there and has the model, and how it wants to be asked."""
        ...

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities: float32 ``[n, k]``, NaN for missing, to float64 ``[n]``."""
        ...

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same before the sigmoid."""
        ...


class ServedModel:
    """A runtime: the model server where it can be used, else the bundle's own. Safe for use by several threads.

    Nothing here raises what comes from the server. :meth:`check` has to be called first.
    """

    def __init__(self, remote: RemoteModel, bundle: Bundle, circuit: Circuit | None = None) -> None:
        self._remote = remote
        self._local = bundle.runtime
        self._name = bundle.version
        self._circuit = circuit or Circuit()
        self._rows, self._scores = reference_scores(bundle)
        self._turns = itertools.count()
        self._of_this_thread = threading.local()
        self._said = ""

    @property
    def up(self) -> bool:
        """Whether the server scored, or passed its test, when it was last asked."""
        return self._circuit.up

    def check(self) -> None:
        """Test the server, see :func:`verify`; raises nothing: :attr:`up` and the log say how it ended."""
        try:
            verify(self._remote, self._rows, self._scores, self._name)
        except Exception as error:  # of any kind: nobody would ask the server again
            self._failed(error)
        else:
            if self._circuit.works() or self._said:
                logger.info("the model server at %s scores again for model %s", self._remote.place, self._name)
            self._said = ""

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """See :meth:`fraudml.models.runtime.Runtime.score`."""
        return self._ask(vectors, self._remote.score, self._local.score, _as_it_is)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """See :meth:`fraudml.models.runtime.Runtime.log_odds`."""
        return self._ask(vectors, self._remote.log_odds, self._local.log_odds, _sigmoid)

    def take_fell_back(self) -> bool:
        """Whether the local copy scored anything for this thread since it last asked this."""
        fell_back: bool = getattr(self._of_this_thread, "fell_back", False)
        self._of_this_thread.fell_back = False
        return fell_back

    def _ask(
        self, vectors: NDArray[np.float32], remote: Score, local: Score, to_probability: Scale
    ) -> NDArray[np.float64]:
        if not len(vectors):
            return np.empty(0)
        if self._circuit.up:
            place = next(self._turns) % len(self._rows)
            try:
                answers = remote(np.concatenate([self._rows[place : place + 1], vectors]))
                compare(to_probability(answers[:1]), self._scores[place : place + 1], self._name)
                return answers[1:]
            except Exception as error:  # of any kind: decisions go on
                self._failed(error)
        elif self._circuit.enter():
            self._check_aside()
        self._of_this_thread.fell_back = True
        return local(vectors)

    def _check_aside(self) -> None:
        try:
            threading.Thread(target=self.check, name="model-server-check", daemon=True).start()
        except RuntimeError as error:  # the system has no thread for us now
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._circuit.failed(str(error))
        if str(error) != self._said:
            unforeseen = None if isinstance(error, ModelServerError) else error
            said = "the model server at %s is not used, the local copy of model %s scores: %s"
            logger.warning(said, self._remote.place, self._name, error, exc_info=unforeseen)
        self._said = str(error)


def _as_it_is(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores


def _sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-log_odds))


def reference_scores(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The inputs (float32 ``[m, k]``) and scores (float64 ``[m]``) by which a model is known: the manifest's, and an
    input with nothing in it, which not every server takes."""
    width = len(bundle.feature_set.inputs)
    nothing = np.full((1, width), np.nan, np.float32)
    rows = np.concatenate([as_matrix(bundle.manifest.reference_inputs, width), nothing])
    return rows, np.concatenate([bundle.manifest.reference_scores, bundle.runtime.score(nothing)])


def verify(remote: RemoteModel, rows: NDArray[np.float32], scores: NDArray[np.float64], name: str) -> None:
    """Whether the server has the model ``name``; raises ``ModelServerError`` with the reason if not."""
    remote.prepare()
    compare(remote.score(rows), scores, name)


def compare(found: NDArray[np.float64], scores: NDArray[np.float64], name: str) -> None:
    """Raise ``ModelServerError`` unless these are the scores of the model ``name``."""
    differences = np.abs(found - scores)
    if not np.all(differences <= SCORE_TOLERANCE):
        raise ModelServerError(
            f"it does not give the reference scores of model {name}, so it has another model: give it the model.onnx "
            f"of version {name}, or let FRAUDML_MODEL_SERVER_URL name that version"
        )
