"""Follows the rollout document without a restart: asks the registry now and then, and swaps what serves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from fraudml import wiring
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.scorer import Scorer
from fraudml.errors import FraudmlError, NotFoundError, RegistryError
from fraudml.models.rollout import Experiment, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.loads import Call, Loads
from fraudml.settings import Settings

ANSWER_S = 15.0  # until the registry has to say which version an alias names
FETCH_S = 120.0  # until a bundle has to be here, loaded and tested
STOP_S = 1.0  # how long a stop waits; a call that hangs dies with the process

# Told of a rollout whose challengers cannot be served here, and why.
OnRefused = Callable[[Rollout, str], None]

logger = logging.getLogger(__name__)


class Refresher:
    """Keeps a scorer on what the rollout document says; it never makes a working service worse.

    ``named`` gives the document (``NotFoundError``, ``RegistryError``), ``load`` the verified model of a version; any
    other error of ``load`` says that it must not serve. See :class:`fraudml.wiring.ModelSource`. While the registry
    does not answer, the loaded models serve on and :attr:`registry_down` is true, in the scorer too. A champion that
    must not serve is refused once and not tried again until the document has changed.

    A champion serves, and an experiment that is over ends, as soon as the champion is loaded: it decides on everything
    until the challengers are here. One that the registry does not give is tried again at each look; of one that must
    not serve ``on_refused`` is told. Each call has a deadline, so a registry that hangs counts as down and does not
    keep the process from ending; loads go on beside the looks, ``fetch_s`` long.
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
        self._asking: Call[Rollout] | None = None
        self._loads = Loads(load, fetch_s)
        self._metrics = metrics
        self._every_s = every_s
        self._answer_s = answer_s
        self._next_s = 0.0  # when to look again; a look waits until then for what is loaded
        self._refused: Rollout | None = None  # not to be tried again
        self._lacking: Rollout | None = None  # said to lack a challenger
        self._nameless = False
        self._changing = threading.Lock()  # held while something changes hands, never while something is awaited
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
            rollout = self._ask()
            self._nameless = False
            self._follow(rollout)
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
        alone = _alone(rollout)
        with self._changing:
            if self._scorer.lineup.rollout in (rollout, alone):
                self._refused = rollout
                self._use(Lineup({rollout.champion: self._scorer.model}, alone))

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._stopping.wait(pause_s):
            self.check()
            pause_s = max(0.0, self._next_s - time.monotonic())

    def _ask(self) -> Rollout:
        """The document as the registry has it now; a call that hangs is not made twice."""
        try:
            if self._asking is not None and not self._asking.ended:
                raise RegistryError("the model registry still does not answer")
            self._asking = Call(self._named)
            self._asking.wait(self._answer_s, self._answer_s)
            return self._asking.result()
        finally:
            self._next_s = time.monotonic() + self._every_s

    def _follow(self, rollout: Rollout) -> None:
        with self._changing:
            if rollout != self._refused:
                self._refused = None
            settled = rollout == self._refused or self._scorer.lineup.follows(rollout)
        self._loads.keep(() if settled else rollout.versions)
        if settled:
            return
        try:
            champion = self._model(rollout.champion)
            if champion is None:
                return
            lineup = Lineup({rollout.champion: champion}, _alone(rollout))
            self._scorer.check(lineup)
        except (NotFoundError, RegistryError):
            raise
        except Exception as error:  # BundleError, or a configuration or a bundle that nobody has foreseen
            said = "model %s serves on, model %s must not: %s"
            self._refuse(rollout, said, self._scorer.model.version, rollout.champion, error)
            return
        experiment = rollout.experiment
        if experiment is None or not all(self._scorer.lineup.model(str(version)) for version in rollout.versions):
            self._put(rollout, lineup)
        if experiment is not None:
            self._join(rollout, experiment, lineup)

    def _join(self, rollout: Rollout, experiment: Experiment, alone: Lineup) -> None:
        """Add the challengers to the champion, once all are here."""
        models = {rollout.champion: alone.champion}
        try:
            for challenger in experiment.challengers:
                model = self._model(challenger.version)
                if model is None:
                    return
                models[challenger.version] = model
            lineup = Lineup(models, rollout)
        except RegistryError as error:
            if self._lacking != rollout:
                said = "the champion decides on everything, revision %s lacks a challenger: %s"
                logger.warning(said, rollout.revision, error)
            self._lacking = rollout
            return
        except Exception as error:  # as above; and a challenger that was deleted
            self._put(rollout, alone)
            self._refuse(rollout, "revision %s has challengers that must not serve: %s", rollout.revision, error)
            self.on_refused(rollout, f"a service cannot serve the challenger: {error}")
            return
        if self._ask() == rollout:  # loading takes its time: it may be over meanwhile
            self._put(rollout, lineup)
            if self._lacking == rollout:
                logger.info("revision %s has its challengers now", rollout.revision)

    def _put(self, rollout: Rollout, lineup: Lineup) -> None:
        """Serve by this document unless it was withdrawn meanwhile, or it is what serves."""
        with self._changing:
            before = self._scorer.lineup
            if self._stopping.is_set() or rollout == self._refused or lineup.rollout == before.rollout:
                return
            self._use(lineup)
        if lineup.version != before.version:
            self._metrics.swap("swapped")
            logger.info("model %s serves instead of model %s", lineup.version, before.version)

    def _use(self, lineup: Lineup) -> None:
        self._scorer.use(lineup)
        self._metrics.serve(lineup)
        logger.debug("this serves now: %s", lineup.shares)

    def _model(self, version: int) -> Model | None:
        """The model of a version: the one that serves already, or loaded; ``None`` while it is on its way."""
        held = self._scorer.lineup.model(str(version))
        return held or self._loads.model(version, max(0.0, self._next_s - time.monotonic()))

    def _refuse(self, rollout: Rollout, said: str, *facts: object) -> None:
        with self._changing:
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


def _alone(rollout: Rollout) -> Rollout:
    """The same without its challengers."""
    return msgspec.structs.replace(rollout, experiment=None)


def _unforeseen(error: Exception) -> Exception | None:
    """The error if its traceback should be logged."""
    return None if isinstance(error, FraudmlError) else error


def follows(settings: Settings, name: str) -> bool:
    """Whether a service that was started with this alias looks for news; a version number is pinned."""
    return not name.isdecimal() and settings.refresh_s > 0


def refresher(
    settings: Settings, name: str, scorer: Scorer, source: wiring.ModelSource, metrics: Metrics
) -> Refresher | None:
    """The refresher of a service that was started with this alias; ``None`` where it looks for no news."""
    if not follows(settings, name):
        return None
    return Refresher(scorer, source.named, source.load, metrics, every_s=settings.refresh_s)
