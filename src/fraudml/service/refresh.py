"""Follows the rollout document without a restart: asks the registry now and then, and swaps what serves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import msgspec

from fraudml import wiring
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.errors import FraudmlError, NotFoundError, RegistryError
from fraudml.models.rollout import Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.settings import Settings

ANSWER_S = 15.0  # until the registry has to say which version an alias names
FETCH_S = 120.0  # until a bundle has to be here, loaded and tested
STOP_S = 1.0  # how long a stop waits; a call that hangs dies with the process

T = TypeVar("T")
# Told of a rollout whose challengers cannot be served here, and why.
OnRefused = Callable[[Rollout, str], None]

logger = logging.getLogger(__name__)


class Refresher:
    """Keeps a scorer on what the rollout document says; it never makes a working service worse.

    ``named`` gives the document (``NotFoundError``, ``RegistryError``), ``load`` the verified model of a version; any
    other error of ``load`` says that it must not serve. See :class:`fraudml.wiring.ModelSource`. While the registry
    does not answer, the loaded models serve on and :attr:`registry_down` is true, in the scorer too. A champion that
    must not serve is refused once and not tried again until the document has changed; of a challenger that must not,
    ``on_refused`` is told, and the champion decides on everything. Each call has a deadline, so a registry that hangs
    counts as down and does not keep the process from ending.
    """

    def __init__(
        self,
        scorer: Scorer,
        named: Callable[[], Rollout],
        load: Callable[[int], Model],
        metrics: Metrics,
        *,
        every_s: float = 5.0,
        answer_s: float = ANSWER_S,
        fetch_s: float = FETCH_S,
    ) -> None:
        self.registry_down = False
        self.on_refused: OnRefused = lambda rollout, reason: None
        self._scorer = scorer
        self._named = named
        self._load = load
        self._metrics = metrics
        self._every_s = every_s
        self._answer_s = answer_s
        self._fetch_s = fetch_s
        self._refused: Rollout | None = None  # not to be tried again
        self._nameless = False
        self._changing = threading.Lock()
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
        """Look once, and serve what the document says if it is something else; raises nothing. One call at a time."""
        try:
            rollout = self._within(self._answer_s, self._named)
            self._nameless = False
            with self._changing:
                if rollout != self._refused:
                    self._refused = None
                    if not self._scorer.lineup.follows(rollout):
                        self._swap(rollout)
        except NotFoundError as error:  # an answer, too: there is nothing newer to serve
            if not self._nameless:
                logger.error("model %s serves on; the alias names none: %s", self._scorer.model.version, error)
            self._nameless = True
        except Exception as error:  # of any kind: a thread that ends would keep an old model for ever
            self._unreachable(error)
            return
        if self.registry_down:
            logger.info("the model registry answers again")
        self._tell(down=False)

    def withdraw(self, rollout: Rollout) -> None:
        """Let the champion decide on everything at once, whatever the registry still says of this rollout."""
        with self._changing:
            if self._scorer.lineup.rollout == rollout:
                self._refused = rollout
                alone = msgspec.structs.replace(rollout, experiment=None)
                self._use(Lineup({rollout.champion: self._scorer.model}, alone))

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.check()

    def _swap(self, rollout: Rollout) -> None:
        before = self._scorer.model.version
        models: dict[int, Model] = {}
        try:
            models[rollout.champion] = self._model(rollout.champion)
            lineup = Lineup(models, msgspec.structs.replace(rollout, experiment=None))
            self._scorer.check(lineup)
        except (NotFoundError, RegistryError):
            raise
        except Exception as error:  # BundleError, or a configuration or a bundle that nobody has foreseen
            said = "model %s serves on, model %s must not: %s"
            self._refuse(rollout, said, before, rollout.champion, error)
            return
        if rollout.experiment is not None:
            try:
                for challenger in rollout.experiment.challengers:
                    models[challenger.version] = self._model(challenger.version)
                lineup = Lineup(models, rollout)
            except RegistryError:
                raise
            except Exception as error:  # as above; and a challenger that was deleted
                self._refuse(rollout, "revision %s has challengers that must not serve: %s", rollout.revision, error)
                self.on_refused(rollout, f"a service cannot serve the challenger: {error}")
        if self._stopping.is_set():
            return
        self._use(lineup)
        if lineup.version != before:
            self._metrics.swap("swapped")
            logger.info("model %s serves instead of model %s", lineup.version, before)

    def _use(self, lineup: Lineup) -> None:
        self._scorer.use(lineup)
        self._metrics.serve(lineup)
        logger.debug("this serves now: %s", lineup.shares)

    def _model(self, version: int) -> Model:
        """The model of a version: the one that serves already, or loaded."""
        held = self._scorer.lineup.model(str(version))
        return held or self._within(self._fetch_s, lambda: self._load(version))

    def _refuse(self, rollout: Rollout, said: str, *facts: object) -> None:
        self._refused = rollout
        self._metrics.swap("refused")
        error = facts[-1]
        logger.error(said, *facts, exc_info=_unforeseen(error) if isinstance(error, Exception) else None)

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
