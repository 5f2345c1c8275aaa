"""Everything a scoring process needs before its first request: state rebuilt, model verified, log open."""

from __future__ import annotations

import gc
from collections.abc import Iterable

import pyarrow as pa

from fraudml import wiring
from fraudml.decisions.rebuild import rebuild
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.events.example import example
from fraudml.events.source import Progress
from fraudml.monitoring.metrics import Metrics
from fraudml.project import Project
from fraudml.service import refresh
from fraudml.service.state import ServiceState
from fraudml.settings import Settings


def build_state(
    settings: Settings,
    declared: Project,
    model: str,
    history: Iterable[pa.RecordBatch],
    progress: Progress | None = None,
) -> ServiceState:
    """The state behind the API: the named model, and online state folded from ``history`` and the decision log."""
    log = wiring.decision_log(settings, declared.schema)
    log.claim()  # first: what another process appends would be missing in this one's state
    recorder = Recorder(log, wiring.journal(settings, declared.schema))
    recorder.replay()  # before state is rebuilt from the log
    metrics = Metrics()
    models = wiring.model_source(settings, declared.feature_set, model, on_cache=metrics.cache)
    serving = models.load(models.named())
    store = wiring.online_store(settings, declared.feature_set)
    rebuild(store, log, history, progress)
    spare_the_collector()
    scorer = Scorer(serving, store, log, recorder=recorder, on_stage=metrics.stage)
    return ServiceState(
        schema=declared.schema,
        hasher=wiring.card_hasher(settings),
        scorer=scorer,
        log=log,
        settings=settings,
        example=example(declared.schema),
        metrics=metrics,
        refresher=refresh.refresher(settings, model, scorer, models, metrics),
    )


def spare_the_collector() -> None:
    """Keep pauses of the garbage collector out of requests: a full collection walks through all that was loaded.

    What exists now is not looked at again. Of what requests make, almost everything is freed as soon as it is not
    used any more; the collector only looks for cycles, and does so less often than by default.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 100)
