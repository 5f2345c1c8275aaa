"""Serves a newly promoted model without a restart: asks the registry now and then, and swaps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from fraudml import wiring
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.errors import FraudmlError, NotFoundError, RegistryError
from fraudml.monitoring.metrics import Metrics
from fraudml.settings import Settings

ANSWER_S = 15.0  # until the registry has to say which version an alias names
FETCH_S = 120.0  # until a bundle has to be here, loaded and tested
NOTHING = ""  # the version of an alias that names none
STOP_S = 1.0  # how long a stop waits; a call that hangs dies with the process

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Refresher:
    """Keeps a scorer on the version that an alias names; it never makes a working service worse.

    ``named`` says the version (``NotFoundError``, ``RegistryError``), ``load`` gives its verified model; any other
    error of ``load`` says that it must not serve. See :class:`fraudml.wiring.ModelSource`. While the registry does not
    answer, the loaded model serves on and :attr:`registry_down` is true, in the scorer too. A version that must not
    serve is refused once and not tried again until the alias has named another. Each call has a deadline, so a registry
    that hangs counts as down and does not keep the process from ending.
    """

    def __init__(
        self,
        scorer: Scorer,
        named: Callable[[], str],
        load: Callable[[str], Model],
        metrics: Metrics,
        *,
        every_s: float = 10.0,
        answer_s: float = ANSWER_S,
        fetch_s: float = FETCH_S,
    ) -> None:
        self.registry_down = False
        self._scorer = scorer
        self._named = named
        self._load = load
        self._metrics = metrics
        self._every_s = every_s
        self._answer_s = answer_s
        self._fetch_s = fetch_s
        self._refused: str | None = None
        self._call: threading.Thread | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-refresh", daemon=True)

    def start(self) -> None:
        """Look every ``every_s`` seconds from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Returns soon, whatever the registry does; may be called without :meth:`start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def check(self) -> None:
        """Look once, and serve the version named if it is another; raises nothing. One call at a time."""
        try:
            version = self._within(self._answer_s, self._named)
            if version == self._scorer.model.version:
                self._refused = None
            elif version != self._refused:
                self._swap(version)
        except NotFoundError as error:  # an answer, too: there is nothing newer to serve
            if self._refused != NOTHING:
                logger.error("model %s serves on; the alias names none: %s", self._scorer.model.version, error)
            self._refused = NOTHING
        except Exception as error:  # of any kind: a thread that ends would keep an old model for ever
            self._unreachable(error)
            return
        if self.registry_down:
            logger.info("the model registry answers again")
        self._tell(down=False)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.check()

    def _swap(self, version: str) -> None:
        before = self._scorer.model.version
        try:
            model = self._within(self._fetch_s, lambda: self._load(version))
            if self._stopping.is_set():
                return
            self._scorer.use(model)
        except (NotFoundError, RegistryError):
            raise
        except Exception as error:  # BundleError, or a configuration or a bundle that nobody has foreseen
            self._refuse(version, error)
            return
        self._refused = None
        self._metrics.swap("swapped")
        self._metrics.serves(model.version)
        logger.info("model %s serves instead of model %s", model.version, before)

    def _refuse(self, version: str, error: Exception) -> None:
        self._refused = version
        self._metrics.swap("refused")
        said = "model %s serves on, model %s must not: %s"
        logger.error(said, self._scorer.model.version, version, error, exc_info=_unforeseen(error))

    def _unreachable(self, error: Exception) -> None:
        if not self.registry_down:
            said = "model %s serves on, newer ones are not seen: %s"
            logger.warning(said, self._scorer.model.version, error, exc_info=_unforeseen(error))
        self._tell(down=True)

    def _tell(self, *, down: bool) -> None:
        self.registry_down = self._scorer.registry_gone = down
        self._metrics.registry(not down)

    def _within(self, seconds: float, call: Callable[[], T]) -> T:
        """The call's result; RegistryError when it takes longer. Then no other is made until it has ended."""
        if self._call is not None and self._call.is_alive():
            raise RegistryError("the model registry still does not answer")
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # raised again below
                future.set_exception(error)

        # not an executor: the interpreter would wait for its threads before it ends
        self._call = threading.Thread(target=run, name="model-refresh-call", daemon=True)
        self._call.start()
        wait([future], seconds)
        if not future.done():
            raise RegistryError(f"the model registry did not answer within {seconds:g} s")
        return future.result()


def _unforeseen(error: Exception) -> Exception | None:
    """The error if its traceback should be logged."""
    return None if isinstance(error, FraudmlError) else error


def refresher(
    settings: Settings, name: str, scorer: Scorer, source: wiring.ModelSource, metrics: Metrics
) -> Refresher | None:
    """The refresher of a service that was started with this alias; ``None`` for a version number: that is pinned."""
    if name.isdecimal() or not settings.refresh_s:
        return None
    return Refresher(scorer, source.named, source.load, metrics, every_s=settings.refresh_s)
