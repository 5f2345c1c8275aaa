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
    recorder = Recorder(log, wiring.journal(settings))
    recorder.replay()  # before state is rebuilt from the log
    metrics = Metrics()
    models = wiring.model_source(settings, declared.feature_set, model, on_cache=metrics.cache)
    serving = models.load(models.named())
    store = wiring.online_store(settings, declared.feature_set)
    rebuild(store, log, history, progress)
    gc.collect()
    gc.freeze()  # the collector need not walk through this state again and again
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
