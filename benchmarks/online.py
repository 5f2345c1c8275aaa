"""The in-process online store: bytes per entity, microseconds per event, seconds to rebuild."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import common, offline
from fraudml import project, wiring
from fraudml.decisions.rebuild import rebuild as rebuild_state
from fraudml.decisions.record import Action, Decision, Timings, pack_vector
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet

ENTITIES = 1_000_000
EVENTS_PER_ENTITY = 5
DAY_US = 86_400_000_000
READS = 50_000


def run() -> str:
    """The section of RESULTS.md."""
    bytes_per_entity = float(_child("memory"))
    events, rebuild, per_event = (float(value) for value in _child("rebuild").split())
    written, from_log = (float(value) for value in _child("logged").split())
    return common.table(
        ["what", "measured"],
        [
            [
                f"state of {ENTITIES:,} customers with {EVENTS_PER_ENTITY} events each, 12 windows",
                f"{bytes_per_entity:,.0f} bytes each",
            ],
            [f"load {events:,.0f} events of history (2 entities, 24 windows)", f"{rebuild:.1f} s"],
            [f"write {events:,.0f} decisions to the SQLite log, 10,000 a commit", f"{written:.1f} s"],
            ["rebuild from these logged events, as `serve` starts", f"{from_log:.1f} s"],
            ["read, then update (24 windows over 2 entities)", f"{per_event:.1f} us/event"],
        ],
    )


def _child(name: str) -> str:
    """Each part in a process of its own: memory is measured by the operating system."""
    code = f"from benchmarks.online import {name}; {name}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=common.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def memory() -> None:
    """Resident bytes per entity after every entity was read and updated once."""
    declared = project.parse(offline.declaration())
    features = [f for f in declared.feature_set.features if getattr(f, "over", "") == "customer"]
    feature_set = FeatureSet(declared.schema, features)
    with common.workspace() as place:
        store = wiring.online_store(common.settings(Path(place)), feature_set)
    gc.collect()
    before = _resident()
    rng = np.random.default_rng(0)
    start = 1_700_000_000_000_000
    for part in range(EVENTS_PER_ENTITY):
        times = np.sort(rng.integers(start + part * 5 * DAY_US, start + (part + 1) * 5 * DAY_US, ENTITIES))
        batch = [
            Transaction("", int(t), (f"c{key}", None), 1_000 + int(key) % 977, ())
            for t, key in zip(times, rng.permutation(ENTITIES), strict=True)
        ]
        for at in range(0, ENTITIES, 1_000):
            store.read_then_update(batch[at : at + 1_000])
        del batch
    gc.collect()
    print((_resident() - before) / ENTITIES)


def rebuild() -> None:
    """Seconds to load the Handbook's history, then microseconds for each further event."""
    declared = project.parse(offline.declaration())
    with common.workspace() as place:
        settings = common.settings(Path(place))
        source = wiring.source(settings, declared.schema, [str(common.handbook())], Path(place) / "rejects.csv")
        batches = list(source.read())
        store = wiring.online_store(settings, declared.feature_set)
    history = pa.Table.from_batches(batches, arrow_schema(declared.schema))
    started = time.perf_counter()
    for batch in history.to_batches():
        store.load(batch)
    store.stats()  # builds the state that was gathered
    loaded = time.perf_counter() - started
    last = history.slice(history.num_rows - READS)
    moment = int(last.column("event_time_us")[-1].as_py())
    rows = zip(last.column("customer").to_pylist(), last.column("terminal").to_pylist(), strict=True)
    events = [Transaction(f"n{i}", moment + i * 1_000_000, keys, 5_000 + i, ()) for i, keys in enumerate(rows)]
    started = time.perf_counter()
    for at in range(0, READS, 16):
        store.read_then_update(events[at : at + 16])
    print(history.num_rows, loaded, (time.perf_counter() - started) / READS * 1e6)


def logged() -> None:
    """Seconds to write the Handbook's events into a decision log, and to rebuild the state from it as `serve` does."""
    declared = project.parse(offline.declaration())
    with common.workspace() as place:
        settings = common.settings(Path(place))
        source = wiring.source(settings, declared.schema, [str(common.handbook())], Path(place) / "rejects.csv")
        log = wiring.decision_log(settings, declared.schema)
        started, count = time.perf_counter(), 0
        for batch in source.read():
            decisions = _decisions(batch, declared.feature_set, count)
            count += len(decisions)
            for at in range(0, len(decisions), 10_000):
                log.append(decisions[at : at + 10_000])
        written = time.perf_counter()
        rebuild_state(wiring.online_store(settings, declared.feature_set), log, iter(()))
        print(written - started, time.perf_counter() - written)
        log.close()


def _decisions(batch: pa.RecordBatch, feature_set: FeatureSet, before: int) -> list[Decision]:
    vector = pack_vector(np.zeros(len(feature_set.inputs)))
    names = ("transaction_id", "event_time_us", "customer", "terminal", "amount_minor")
    rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    return [
        Decision(
            transaction=Transaction(key, moment, (customer, terminal), amount, ()),
            vector=vector,
            score=0.1,
            action=Action.approve,
            model_version="1",
            fingerprint=feature_set.fingerprint,
            arrival=before + number,
            decided_at_us=moment,
            timings=Timings(1, 1, 1),
        )
        for number, (key, moment, customer, terminal, amount) in enumerate(rows, 1)
    ]


def _resident() -> int:
    text = Path("/proc/self/statm").read_text().split()
    return int(text[1]) * resource.getpagesize()
