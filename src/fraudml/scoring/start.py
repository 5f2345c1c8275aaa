"""Everything a scoring process needs before its first request: state rebuilt, model verified, log open."""

from __future__ import annotations

import gc
import logging
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fraudml import wiring
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import ReadHistory, bring_up
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.refill import Refiller
from fraudml.decisions.replayed import give_replayed
from fraudml.decisions.scorer import Scorer
from fraudml.errors import FraudmlError, RegistryError
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.events.source import Progress
from fraudml.features.stores import OnlineStore
from fraudml.models.registry import Registry
from fraudml.monitoring.metrics import Metrics, Objective
from fraudml.monitoring.rollouts.checkpoint import Checkpoint
from fraudml.monitoring.rollouts.evidence import Currency
from fraudml.project import Project
from fraudml.scoring import refresh
from fraudml.scoring.judge import Judge
from fraudml.scoring.refresh import Refresher
from fraudml.scoring.shadow import Shadow
from fraudml.settings import Settings

if TYPE_CHECKING:
    from fraudml.decisions.journal import Journal
    from fraudml.wiring.sharing import SharedRedis

logger = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a :class:`fraudml.scoring.process.ScoringProcess` is made of."""

    schema: Schema
    hasher: CardHasher
    scorer: Scorer
    log: DecisionLog
    settings: Settings
    metrics: Metrics
    refresher: Refresher | None
    judge: Judge | None
    shadow: Shadow
    refiller: Refiller | None
    shared: SharedRedis | None
    registry: Registry


def prepare(
    settings: Settings,
    declared: Project,
    model: str,
    registry: Registry,
    history: ReadHistory,
    progress: Progress | None = None,
    *,
    waits: bool = False,
) -> Parts:
    """The named model, verified, and online state folded from ``history`` and the decision log.

    ``waits``: the input can wait until a decision log that is gone works again, so no journal takes its place.
    """
    store = wiring.online_store(settings, declared.feature_set)
    log = wiring.decision_log(settings, declared.schema)
    # first: what another process appends would be missing in this one's state, unless they share it
    writer = log.claim(shared=store.shared)
    metrics = Metrics(settings.model_name, Objective(settings.latency_objective_s, settings.cost_per_hour))
    shared = wiring.shared_redis(settings)
    recorder = _recorder(settings, declared, log, store, shared, metrics, waits=waits)
    models = wiring.model_source(
        settings, declared.feature_set, model, on_cache=metrics.cache, shared=shared, models=registry
    )
    serving, registry_gone = _lineup(models, refresh.follows(settings, model))
    reach_us = wiring.reach_us(settings, declared)
    bring_up(store, log, history, reach_us, progress)
    give = partial(give_replayed, recorder, store, declared.schema)
    give()
    spare_the_collector()
    scorer = Scorer(serving, store, log, recorder=recorder, on_stage=metrics.stage, writer=writer)
    scorer.registry_gone = registry_gone
    looking = refresh.refresher(settings, model, scorer, models, metrics)
    if looking is None:
        registry.close()  # it is not asked again
    shadow = Shadow(log, metrics)
    scorer.on_shadow = shadow.offer
    return Parts(
        schema=declared.schema,
        hasher=wiring.card_hasher(settings),
        scorer=scorer,
        log=log,
        settings=settings,
        metrics=metrics,
        refresher=looking,
        judge=None if looking is None else _judge(settings, declared, scorer, log, models, looking, metrics),
        shadow=shadow,
        refiller=Refiller(store, log, history, reach_us, scorer.state, give=give) if store.shared else None,
        shared=shared,
        registry=registry,
    )


def _recorder(
    settings: Settings,
    declared: Project,
    log: DecisionLog,
    store: OnlineStore,
    shared: SharedRedis | None,
    metrics: Metrics,
    *,
    waits: bool,
) -> Recorder:
    """What makes decisions durable, after the journals that ended processes have left are in the log."""
    own, left = wiring.journals(settings, declared.schema)
    journal: Journal | None = own
    if waits:
        left, journal = [own, *left], None
    recent = wiring.recent_decisions(settings, declared.schema, shared, metrics.recent)
    recorder = Recorder(log, journal, recent, keep=store.shared)
    recorder.replay()  # before state is rebuilt from the log
    for each in left:
        with closing(each):
            of_others = Recorder(log, each, keep=store.shared)
            of_others.replay()
            give_replayed(of_others, store, declared.schema)
    return recorder


def _judge(
    settings: Settings,
    declared: Project,
    scorer: Scorer,
    log: DecisionLog,
    models: wiring.ModelSource,
    looking: Refresher,
    metrics: Metrics,
) -> Judge:
    decimals = declared.schema.amount.decimals if declared.schema.amount else 0
    currency = Currency(declared.costs, decimals)
    kept = Checkpoint(settings.home / "bundles" / settings.model_name / "guardrails.state")
    end = models.end_breached
    judge = Judge(scorer, log, currency, metrics, withdraw=looking.withdraw, end=end, checkpoint=kept)
    looking.on_refused = judge.refuse
    return judge


def _lineup(models: wiring.ModelSource, follows: bool) -> tuple[Lineup, bool]:
    """What serves first, and whether that is what this machine saw last because the registry is gone.

    A service that never looks for news (``follows`` is false) takes no part in an experiment: nothing would end it.
    """
    gone, load = False, models.load
    try:
        rollout = models.named()
    except RegistryError as error:
        last = models.last()
        if last is None:
            raise
        logger.warning("the model registry is gone; serving what it said last: %s", error)
        rollout, gone, load = last, True, models.load_kept
    if rollout.experiment is not None and not follows:
        logger.warning(
            "the champion decides on everything here, without the challengers of revision %s: with FRAUDML_REFRESH_S=0 "
            "their end would never be seen; set it to seconds, such as 5, to take part",
            rollout.revision,
        )
        rollout = msgspec.structs.replace(rollout, experiment=None)
    champion = load(rollout.champion)
    try:
        others = {version: load(version) for version in rollout.versions[1:]}
        return Lineup({rollout.champion: champion, **others}, rollout), gone
    except FraudmlError as error:  # the refresher comes to the same, and tells everyone
        logger.error("the champion serves alone, without its challengers: %s", error)
        return Lineup({rollout.champion: champion}, msgspec.structs.replace(rollout, experiment=None)), gone


def spare_the_collector() -> None:
    """Keep pauses of the garbage collector out of requests: a full collection walks through all that was loaded.

    What exists now is not looked at again. Of what requests make, almost everything is freed as soon as it is not
    used any more; the collector only looks for cycles, and does so less often than by default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)
